"""Pictures that the sandbox draws: edits of photographs, and scenes for prompts without a photograph."""
