// Where rows come from and decisions go: the server, or the data that one offline file holds.

const PAGE = 100;

// The rows that a server pages. Every method that asks the server throws an Error with words for a person.
export class ServerSource {
  offline = false;
  pageSize = PAGE;

  async summary() {
    return this.#get("/api/summary");
  }

  // Returns { view, total, rows }: the first rows of those that pass the filters.
  async view(filters) {
    return this.#get(`/api/view?${new URLSearchParams(filters)}`);
  }

  async rows(view, offset) {
    return (await this.#get(`/api/rows?view=${view}&offset=${offset}&limit=${PAGE}`)).rows;
  }

  async numbered(numbers) {
    return (await this.#get(`/api/rows?n=${numbers.join(",")}`)).rows;
  }

  // Records decisions and returns the new coverage.
  async decide(decisions) {
    const answer = await this.#fetch("/api/decisions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ decisions }),
    });
    return (await answer.json()).coverage;
  }

  thumbnail(row, kind) {
    return row[kind] ? `/thumbnail/${kind}/${row[kind]}` : null;
  }

  picture(row, kind) {
    return row[kind] ? `/picture/${kind}/${row[kind]}` : null;
  }

  async #get(path) {
    return (await this.#fetch(path)).json();
  }

  async #fetch(path, options) {
    let answer;
    try {
      answer = await fetch(path, options);
    } catch {
      throw new Error("kontext review doesn't answer: it has ended, or the connection to it is gone.");
    }
    if (!answer.ok) {
      const error = new Error((await answer.text()) || `The server answered ${answer.status}.`);
      error.status = answer.status;
      throw error;
    }
    return answer;
  }
}

// The rows of an offline file. Decisions stay in the page until they are downloaded.
export class OfflineSource {
  offline = true;
  pageSize = PAGE;

  constructor(data) {
    this.data = data;
    this.selected = [];
    this.decisions = new Map(data.rows.filter((row) => row.decision).map((row) => [row.fingerprint, row]));
    this.made = [];
    this.byNumber = new Map(data.rows.map((row) => [row.n, row]));
  }

  async summary() {
    return { ...this.data.summary, coverage: this.#coverage() };
  }

  async view(filters) {
    this.selected = this.data.rows.filter((row) => this.#passes(row, filters));
    if (filters.order) this.#sort(filters.order);
    return { view: "offline", total: this.selected.length, rows: this.selected.slice(0, PAGE) };
  }

  async rows(_view, offset) {
    return this.selected.slice(offset, offset + PAGE);
  }

  async numbered(numbers) {
    return numbers.map((number) => this.byNumber.get(number)).filter(Boolean);
  }

  async decide(decisions) {
    const time = new Date().toISOString();
    for (const one of decisions) {
      this.made.push({ ...one, reviewer: "", decided_at: time });
      if (one.decision) this.decisions.set(one.fingerprint, one);
      else this.decisions.delete(one.fingerprint);
    }
    return this.#coverage();
  }

  thumbnail(row, kind) {
    return this.picture(row, kind);
  }

  picture(row, kind) {
    const data = this.data.pictures[row[kind]];
    return data ? `data:image/jpeg;base64,${data}` : null;
  }

  // Returns the decisions that were made here as review.csv.
  csv(reviewer) {
    const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const lines = this.made.map((one) =>
      [one.fingerprint, one.decision, one.reason.replace(/\s+/g, " "), reviewer, one.decided_at].map(cell).join(","),
    );
    return ["fingerprint,decision,reason,reviewer,decided_at", ...lines, ""].join("\n");
  }

  #passes(row, filters) {
    const decision = this.decisions.get(row.fingerprint)?.decision ?? "";
    const text = filters.text.toLowerCase();
    return (
      (!filters.batch || row.batch === filters.batch) &&
      (!filters.status || row.status === filters.status) &&
      (!filters.decision || (filters.decision === "undecided" ? "" : filters.decision) === decision) &&
      (!filters.issue || (filters.issue === "any" ? row.issues.length > 0 : row.issues.includes(filters.issue))) &&
      (!filters.column || String(row.own[filters.column]) === filters.value) &&
      (!text || [row.prompt, row.id, row.error].some((value) => (value ?? "").toLowerCase().includes(text)))
    );
  }

  #sort(order) {
    const name = order.replace(/^-/, "");
    const sign = order.startsWith("-") ? -1 : 1;
    const key = (row) => {
      const value = row.measures[name] ?? row[name];
      return value === null || value === undefined ? Infinity : sign * value;
    };
    this.selected.sort((a, b) => (key(a) === key(b) ? 0 : key(a) < key(b) ? -1 : 1));
  }

  #coverage() {
    const counts = { keep: 0, reject: 0 };
    const reasons = {};
    const pictures = new Set(this.data.rows.filter((row) => row.status === "succeeded").map((row) => row.fingerprint));
    for (const fingerprint of pictures) {
      const one = this.decisions.get(fingerprint);
      if (!one) continue;
      counts[one.decision] += 1;
      if (one.decision === "reject") reasons[one.reason] = (reasons[one.reason] ?? 0) + 1;
    }
    return {
      pictures: pictures.size,
      kept: counts.keep,
      rejected: counts.reject,
      undecided: pictures.size - counts.keep - counts.reject,
      rejected_by_reason: reasons,
    };
  }
}
