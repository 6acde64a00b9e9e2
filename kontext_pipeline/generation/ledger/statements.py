"""Every SQL statement of the ledger, each a named constant.

Parameters are written `:name`. `IN :keys` takes a list, and `VALUES (...)` may be repeated for several rows. SQLite uses
the partial index `attempts_unsettled` only where a condition repeats the condition of the index word for word:
`state IN ('open', 'unknown')`. tests/generation/test_query_plans.py checks each statement for the index that it needs.

Amounts are summed up as `SUM(... * 1.0)`: exact to nine billion USD, and no error where a ledger of an earlier version
holds costs that no sum of integers can. Batches whose keys begin with `resample.` are those of resamples. No statement has a
percent sign: the driver of PostgreSQL takes it for a placeholder.
"""

from typing import Final

from kontext_pipeline.generation.ledger.migrations import HEARTBEAT

# --- database

# Make this PostgreSQL transaction the only one that writes to the ledger.
TAKE_WRITE_LOCK: Final = "SELECT pg_advisory_xact_lock(:key)"
# Microseconds on the clock of the PostgreSQL server.
SERVER_CLOCK: Final = "SELECT (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::bigint AS now"
# The version of the ledger's tables.
VERSION: Final = "SELECT version_num FROM alembic_version"
# The next revision, for all changes of one transaction.
NEXT_REVISION: Final = "UPDATE ledger_facts SET revision = revision + 1 RETURNING revision"
# The id of the data directory that has the pictures.
DATASET_ID: Final = "SELECT dataset_id FROM ledger_facts"
# Note that id, unless there is one.
SET_DATASET_ID: Final = "UPDATE ledger_facts SET dataset_id = :id WHERE dataset_id IS NULL"

# --- claimants

# Enter a process as a claimant.
ADD_CLAIMANT: Final = f"""
    INSERT INTO claimants (id, run_id, backend, host, pid, {HEARTBEAT}, lease_s, started_at)
    VALUES (:id, :run_id, :backend, :host, :pid, 0, :lease_s, :now)"""  # noqa: S608
# Show the others that a claimant is alive.
COUNT_HEARTBEAT: Final = f"""
    UPDATE claimants SET {HEARTBEAT} = {HEARTBEAT} + 1 WHERE id = :id AND ended_at IS NULL"""  # noqa: S608
# Whether a claimant has left or was declared dead.
CLAIMANT_END: Final = "SELECT ended_at FROM claimants WHERE id = :id"
# Note that a claimant has left or is dead.
END_CLAIMANT: Final = "UPDATE claimants SET ended_at = :now WHERE id = :id AND ended_at IS NULL"
# The other claimants of a backend that have not ended.
OTHER_CLAIMANTS: Final = f"""
    SELECT id, {HEARTBEAT} AS heartbeat, lease_s FROM claimants
    WHERE ended_at IS NULL AND backend = :backend AND id <> :me"""  # noqa: S608
# The processes of runs that have not ended.
RUN_PROCESSES: Final = f"""
    SELECT id, run_id, host, pid, {HEARTBEAT} AS heartbeat, lease_s FROM claimants
    WHERE ended_at IS NULL AND backend = :backend ORDER BY started_at"""  # noqa: S608

# --- reserving

# What is known of some requests, whether an attempt is open, and whether their claimants have ended.
FIND_GENERATIONS: Final = """
    SELECT g.fingerprint, g.status, g.retryable, g.claimant, g.batch, c.ended_at, EXISTS (
        SELECT 1 FROM attempts a WHERE a.fingerprint = g.fingerprint AND a.state = 'open') AS in_flight
    FROM generations g LEFT JOIN claimants c ON c.id = g.claimant WHERE g.fingerprint IN :keys"""
# Enter requests that the ledger has not seen before.
ADD_GENERATION: Final = """
    INSERT INTO generations (fingerprint, backend, batch, status, retryable, claimant, revision)
    VALUES (:fingerprint, :backend, :batch, 'pending', TRUE, :claimant, :revision)"""
# Claim a known request for another attempt.
CLAIM_GENERATION: Final = """
    UPDATE generations SET status = 'pending', retryable = TRUE, claimant = :claimant, revision = :revision
    WHERE fingerprint = :fingerprint"""
# Mark a request whose retries after lost answers are used up.
GIVE_UP_GENERATION: Final = """
    UPDATE generations SET status = 'unknown', claimant = NULL, revision = :revision WHERE fingerprint = :fingerprint"""
# Open attempts, which hold their prices.
ADD_ATTEMPT: Final = """
    INSERT INTO attempts (fingerprint, batch, backend, run_id, claimant, api_version, state, price, cost,
        cost_estimated, day, started_at, input_sha256)
    VALUES (:fingerprint, :batch, :backend, :run_id, :claimant, :api_version, 'open', :price, 0, FALSE, :day, :now,
        :input_sha256)
    RETURNING id, fingerprint"""
# Enter the kept input pictures that attempts are made from.
ADD_INPUT: Final = """
    INSERT INTO inputs (sha256, path, width, height) VALUES (:sha256, :path, :width, :height)
    ON CONFLICT (sha256) DO NOTHING"""
# How often a request met the most frequent kind of answer that may have cost money without a picture. `but_cause`: a
# cause that does not count, or an empty text.
COUNT_WASTED: Final = """
    SELECT COUNT(*) AS times FROM attempts
    WHERE fingerprint = :fingerprint AND (state = 'unknown' OR (state = 'charged' AND outcome <> 'succeeded'))
    AND COALESCE(cause, '-') <> :but_cause GROUP BY outcome ORDER BY times DESC LIMIT 1"""
# Whether a claimant found the job of a request expired.
EXPIRED_ATTEMPT: Final = """
    SELECT 1 FROM attempts WHERE fingerprint = :fingerprint AND claimant = :claimant AND outcome = 'expired'"""

# --- settling

# An attempt, to be settled.
FIND_ATTEMPT: Final = """
    SELECT fingerprint, backend, run_id, claimant, state, outcome, price, day FROM attempts WHERE id = :id"""
# Note the v2 job of an attempt.
SET_JOB: Final = """
    UPDATE attempts SET job = :job, request_id = :request_id, started_at = :sent_at WHERE id = :id"""
# Write what came of an attempt.
SETTLE_ATTEMPT: Final = """
    UPDATE attempts SET state = :state, outcome = :outcome, cause = NULLIF(:cause, ''), cost = :cost,
        cost_estimated = :cost_estimated, status_code = :status_code, error = :error,
        request_id = COALESCE(:request_id, request_id), latency_s = :latency_s,
        started_at = COALESCE(:sent_at, started_at), finished_at = :now
    WHERE id = :id"""
# Write what came of a request: never over a success, and without a picture only where no other attempt is open.
SETTLE_GENERATION: Final = """
    UPDATE generations SET status = :status, retryable = :retryable, claimant = :claimant,
        image_path = :path, image_sha256 = :sha256, width = :width, height = :height, bytes = :bytes,
        revision = :revision
    WHERE fingerprint = :fingerprint AND status <> 'succeeded' AND (:path IS NOT NULL OR NOT EXISTS (
        SELECT 1 FROM attempts WHERE fingerprint = :fingerprint AND state = 'open'))"""
# Note that an attempt at a request has changed, where the request itself has not.
TOUCH_GENERATION: Final = """
    UPDATE generations SET revision = :revision WHERE fingerprint = (SELECT fingerprint FROM attempts WHERE id = :id)"""
# Make a request pending again whose picture is gone, unless it has changed since it was looked at.
REOPEN_GENERATION: Final = """
    UPDATE generations SET status = 'pending', retryable = TRUE, claimant = NULL, image_path = NULL, image_sha256 = NULL,
        width = NULL, height = NULL, bytes = NULL, revision = :revision,
        reopened_after = (SELECT MAX(id) FROM attempts WHERE fingerprint = :fingerprint)
    WHERE fingerprint = :fingerprint AND status = 'succeeded' AND revision = :seen"""

# --- uploads

# The latest upload of an input picture to an address.
FIND_UPLOAD: Final = "SELECT url, uploaded_at FROM uploads WHERE sha256 = :sha256 AND address = :address"
# Note an upload.
SET_UPLOAD: Final = """
    INSERT INTO uploads (sha256, address, url, uploaded_at) VALUES (:sha256, :address, :url, :now)
    ON CONFLICT (sha256, address) DO UPDATE SET url = excluded.url, uploaded_at = excluded.uploaded_at"""

# --- recovery

# The open attempts of one claimant.
OPEN_ATTEMPTS_OF: Final = """
    SELECT id FROM attempts WHERE state IN ('open', 'unknown') AND state = 'open' AND claimant = :claimant"""
_ORPHAN: Final = """
    SELECT a.id, a.fingerprint, a.claimant, a.batch, a.api_version, a.job, a.started_at, a.price, EXISTS (
        SELECT 1 FROM attempts o WHERE o.fingerprint = a.fingerprint AND o.state = 'charged'
        AND o.outcome = 'succeeded' AND o.id > COALESCE(
            (SELECT reopened_after FROM generations g WHERE g.fingerprint = a.fingerprint), 0)) AS accounted_for
    FROM attempts a"""
# The open attempts of claimants that have ended.
ORPHANS: Final = f"""{_ORPHAN} JOIN claimants c ON c.id = a.claimant
    WHERE a.state IN ('open', 'unknown') AND a.state = 'open' AND c.ended_at IS NOT NULL
    AND a.backend = :backend AND a.claimant <> :me"""
# An orphan that this claimant has adopted already.
ADOPTED_ORPHAN: Final = f"{_ORPHAN} WHERE a.id = :id AND a.state = 'open' AND a.claimant = :me"
# Make an orphan an attempt of this claimant.
ADOPT_ATTEMPT: Final = "UPDATE attempts SET claimant = :me WHERE id = :id"
# Claim the request of an orphan.
ADOPT_GENERATION: Final = """
    UPDATE generations SET claimant = :me WHERE fingerprint = :fingerprint AND status <> 'succeeded'"""

# --- money and rate

_HELD: Final = """
    SELECT COALESCE(SUM(charged * 1.0), 0) AS charged, COALESCE(SUM(unknown * 1.0), 0) AS unknown,
        COALESCE(SUM(open * 1.0), 0) AS open
    FROM spending WHERE backend = :backend"""
# What counts against a cap, by its scope.
HELD: Final = {
    "run": f"{_HELD} AND run_id = :run_id",
    "day": f"{_HELD} AND day = :day",
    "month": f"{_HELD} AND day LIKE :month",
    "all": _HELD,
}
# Add to the sums of a run's day.
ADD_SPENDING: Final = """
    INSERT INTO spending (backend, day, run_id, charged, unknown, open)
    VALUES (:backend, :day, :run_id, :charged, :unknown, :open)
    ON CONFLICT (backend, day, run_id) DO UPDATE SET charged = spending.charged + excluded.charged,
        unknown = spending.unknown + excluded.unknown, open = spending.open + excluded.open"""
# When the next request may be sent.
FIND_RATE: Final = "SELECT next_at, paused_until FROM rates WHERE backend = :backend"
# Change that.
SET_RATE: Final = """
    INSERT INTO rates (backend, next_at, paused_until) VALUES (:backend, :next_at, :paused_until)
    ON CONFLICT (backend) DO UPDATE SET next_at = excluded.next_at, paused_until = excluded.paused_until"""

# --- views

# The most that an attempt was ever charged, of what is believed.
HIGHEST_CHARGE: Final = """
    SELECT MAX(cost) AS cost FROM attempts WHERE backend = :backend AND state = 'charged' AND cost <= :bound"""
# How many requests the ledger knows.
COUNT_GENERATIONS: Final = "SELECT COUNT(*) AS times FROM generations"
# The status of all requests, and of some.
ALL_STATUSES: Final = "SELECT fingerprint, status, retryable FROM generations"
STATUSES: Final = f"{ALL_STATUSES} WHERE fingerprint IN :keys"
# The latest revision of some requests.
LATEST_REVISION: Final = "SELECT MAX(revision) AS revision FROM generations WHERE fingerprint IN :keys"
# The revisions of some requests that succeeded, and the sizes of their pictures.
PICTURES: Final = """
    SELECT fingerprint, revision, bytes FROM generations WHERE status = 'succeeded' AND fingerprint IN :keys"""
# The accounting of some requests, and of the attempt that tells most: the one with the picture, or else the last one.
GENERATIONS: Final = """
    SELECT g.fingerprint, g.batch, g.status, g.image_path, g.image_sha256, g.width, g.height, g.bytes,
        COALESCE(s.attempts, 0) AS attempts, COALESCE(s.cost, 0) AS cost, s.cost_estimated, s.started_at,
        COALESCE(s.possibly_charged, 0) AS possibly_charged, t.status_code, t.latency_s, t.request_id, t.run_id,
        t.finished_at, CASE WHEN g.status <> 'succeeded' THEN t.error END AS error,
        t.input_sha256 AS input_kept_sha256, i.path AS input_path, i.width AS input_width, i.height AS input_height
    FROM generations g LEFT JOIN (
        SELECT fingerprint, COUNT(*) AS attempts, SUM(cost * 1.0) AS cost, MIN(started_at) AS started_at,
            SUM(CASE WHEN state = 'unknown' THEN price * 1.0 ELSE 0 END) AS possibly_charged,
            MAX(CASE WHEN cost_estimated THEN 1 ELSE 0 END) AS cost_estimated,
            COALESCE(MAX(CASE WHEN outcome = 'succeeded' THEN id END), MAX(id)) AS telling
        FROM attempts WHERE fingerprint IN :keys AND COALESCE(outcome, '') <> 'not_sent' GROUP BY fingerprint
    ) s ON s.fingerprint = g.fingerprint LEFT JOIN attempts t ON t.id = s.telling
    LEFT JOIN inputs i ON i.sha256 = t.input_sha256 WHERE g.fingerprint IN :keys"""

# What one run was charged for some requests of a batch.
SPENT_BY_RUN: Final = """
    SELECT COALESCE(SUM(cost * 1.0), 0) AS cost FROM attempts
    WHERE fingerprint IN :keys AND run_id = :run_id AND batch = :batch AND state = 'charged'"""

# --- report for people

# The backends that the ledger knows.
BACKENDS: Final = "SELECT backend FROM generations UNION SELECT backend FROM attempts ORDER BY 1"
# How many requests have each status.
COUNT_BY_STATUS: Final = """
    SELECT status, COUNT(*) AS times FROM generations
    WHERE backend = :backend AND SUBSTR(batch, 1, 9) <> 'resample.' GROUP BY status"""
# Requests that resamples have sent again, by backend: with and without a picture, and what all their attempts cost.
RESAMPLES: Final = """
    SELECT g.backend, SUM(CASE WHEN g.status = 'succeeded' THEN 1 ELSE 0 END) AS pictures, COUNT(*) AS requests, (
        SELECT SUM(cost * 1.0) FROM attempts a WHERE a.backend = g.backend AND SUBSTR(a.batch, 1, 9) = 'resample.') AS cost
    FROM generations g WHERE SUBSTR(g.batch, 1, 9) = 'resample.' GROUP BY g.backend ORDER BY g.backend"""
# Attempts and amounts by day and state.
AMOUNTS_BY_DAY: Final = """
    SELECT day, state, COUNT(*) AS times, SUM(cost * 1.0) AS cost, SUM(price * 1.0) AS price,
        SUM(CASE WHEN outcome <> 'succeeded' THEN cost * 1.0 ELSE 0 END) AS without_picture
    FROM attempts WHERE backend = :backend AND COALESCE(outcome, '') <> 'not_sent' GROUP BY day, state ORDER BY day"""
# Pictures and amounts by backend, day, run and batch.
SPENDING_BY_BATCH: Final = """
    SELECT backend, day, run_id, batch, COUNT(*) AS attempts,
        SUM(CASE WHEN state = 'charged' AND outcome = 'succeeded' THEN 1 ELSE 0 END) AS pictures,
        SUM(CASE WHEN state = 'charged' THEN cost * 1.0 ELSE 0 END) AS charged,
        SUM(CASE WHEN state = 'unknown' THEN price * 1.0 ELSE 0 END) AS unknown,
        SUM(CASE WHEN state = 'open' THEN price * 1.0 ELSE 0 END) AS open
    FROM attempts WHERE COALESCE(outcome, '') <> 'not_sent'
    GROUP BY backend, day, run_id, batch ORDER BY backend, day, MIN(id)"""
# Pictures and amounts of some runs.
FIGURES_OF_RUNS: Final = """
    SELECT backend, SUM(CASE WHEN state = 'charged' THEN cost * 1.0 ELSE 0 END) AS charged,
        SUM(CASE WHEN state = 'unknown' THEN price * 1.0 ELSE 0 END) AS unknown,
        SUM(CASE WHEN state = 'charged' AND outcome = 'succeeded' THEN 1 ELSE 0 END) AS pictures
    FROM attempts WHERE run_id IN :keys GROUP BY backend"""
# How many requests failed for each cause: that of the last attempt.
FAILED_BY_CAUSE: Final = """
    SELECT COALESCE(a.cause, 'other') AS cause, COUNT(*) AS times FROM generations g JOIN attempts a ON a.id = (
        SELECT MAX(id) FROM attempts WHERE fingerprint = g.fingerprint AND COALESCE(outcome, '') <> 'not_sent')
    WHERE g.backend = :backend AND g.status = 'failed' AND SUBSTR(g.batch, 1, 9) <> 'resample.'
    GROUP BY COALESCE(a.cause, 'other') ORDER BY times DESC"""
# Requests without a picture that a run has given up, or may give up, and the attempt that was the last one.
WITHOUT_PICTURE: Final = """
    SELECT g.fingerprint, g.status, g.retryable, COALESCE(a.cause, '') AS cause, a.status_code, a.error
    FROM generations g LEFT JOIN attempts a ON a.id = (
        SELECT MAX(id) FROM attempts WHERE fingerprint = g.fingerprint AND COALESCE(outcome, '') <> 'not_sent')
    WHERE g.status IN ('failed', 'unknown')"""
# The same, of some requests.
SOME_WITHOUT_PICTURE: Final = f"{WITHOUT_PICTURE} AND g.fingerprint IN :keys"
# v2 jobs that no run has collected.
OPEN_JOBS: Final = """
    SELECT request_id, fingerprint, started_at FROM attempts
    WHERE backend = :backend AND state = 'open' AND job IS NOT NULL ORDER BY id"""
# Where the sums that caps are checked by differ from the attempts that they are sums of.
SPENDING_DIFFERENCES: Final = """
    SELECT backend, day, run_id, SUM(charged * 1.0) AS charged, SUM(unknown * 1.0) AS unknown, SUM(open * 1.0) AS open
    FROM (
        SELECT backend, day, run_id, charged, unknown, open FROM spending
        UNION ALL
        SELECT backend, day, run_id, -CASE WHEN state = 'charged' THEN cost ELSE 0 END,
            -CASE WHEN state = 'unknown' THEN price ELSE 0 END, -CASE WHEN state = 'open' THEN price ELSE 0 END
        FROM attempts
    ) AS both_ways GROUP BY backend, day, run_id
    HAVING SUM(charged * 1.0) <> 0 OR SUM(unknown * 1.0) <> 0 OR SUM(open * 1.0) <> 0"""

# --- reconciliation

# Attempts that may have been charged, and charges that are not believed.
QUESTIONABLE: Final = """
    SELECT id, backend, day, run_id, fingerprint, batch, started_at, request_id, state, outcome, cause, price, cost
    FROM attempts WHERE state = 'unknown' OR (state = 'charged' AND cost > :bound) ORDER BY id"""
# Write what the provider says that an attempt cost.
RECONCILE_ATTEMPT: Final = """
    UPDATE attempts SET state = :state, cost = :cost, cost_estimated = FALSE WHERE id = :id"""
# The sums of the attempts, by run and day.
SPENDING_OF_ATTEMPTS: Final = """
    SELECT backend, day, run_id, SUM(CASE WHEN state = 'charged' THEN cost * 1.0 ELSE 0 END) AS charged,
        SUM(CASE WHEN state = 'unknown' THEN price * 1.0 ELSE 0 END) AS unknown,
        SUM(CASE WHEN state = 'open' THEN price * 1.0 ELSE 0 END) AS open
    FROM attempts GROUP BY backend, day, run_id"""
# Write the sums of a run's day anew.
SET_SPENDING: Final = """
    UPDATE spending SET charged = :charged, unknown = :unknown, open = :open
    WHERE backend = :backend AND day = :day AND run_id = :run_id"""

# --- damaged pictures

# Where the pictures of some requests are.
PATHS_OF_PICTURES: Final = """
    SELECT fingerprint, image_path, image_sha256 FROM generations
    WHERE status = 'succeeded' AND fingerprint IN :keys"""
# The attempt that brought the picture of a request.
FIND_PICTURES_ATTEMPT: Final = """
    SELECT MAX(id) AS id FROM attempts
    WHERE fingerprint = :fingerprint AND state = 'charged' AND outcome = 'succeeded'"""
# Note that an attempt was charged and brought no whole picture after all.
MARK_UNUSABLE: Final = "UPDATE attempts SET outcome = 'unusable', cause = :cause, error = :error WHERE id = :id"
# Take a picture that can't be decoded from its request: the one exception to a success that never changes.
WITHDRAW_PICTURE: Final = """
    UPDATE generations SET status = 'unknown', retryable = TRUE, claimant = NULL, image_path = NULL,
        image_sha256 = NULL, width = NULL, height = NULL, bytes = NULL, revision = :revision
    WHERE fingerprint = :fingerprint AND status = 'succeeded' AND image_sha256 = :sha256"""

# --- balances

# The revision of the last transaction that changed a request or an attempt.
CURRENT_REVISION: Final = "SELECT revision FROM ledger_facts"
# Record a balance.
ADD_BALANCE: Final = """
    INSERT INTO balances (backend, account, taken_at, balance, last_attempt, charged, unknown, open)
    VALUES (:backend, :account, :now, :balance, (SELECT COALESCE(MAX(id), 0) FROM attempts),
        :charged, :unknown, :open)"""
# All recorded balances, the oldest first.
BALANCES: Final = """
    SELECT account, taken_at, balance, last_attempt, open FROM balances WHERE backend = :backend ORDER BY id"""
# The attempts after one record and up to another, added up.
ATTEMPTS_BETWEEN: Final = """
    SELECT SUM(CASE WHEN state = 'charged' THEN cost * 1.0 ELSE 0 END) AS charged,
        SUM(CASE WHEN state = 'charged' AND (cost_estimated OR cost > :bound) THEN 1 ELSE 0 END) AS estimated,
        SUM(CASE WHEN state = 'unknown' THEN 1 ELSE 0 END) AS lost,
        SUM(CASE WHEN state = 'unknown' THEN price * 1.0 ELSE 0 END) AS lost_amount,
        MAX(CASE WHEN state = 'charged' THEN finished_at END) AS last_charged,
        MAX(CASE WHEN state = 'unknown' OR outcome IN ('lost', 'gateway_timeout', 'unusable', 'expired')
            THEN started_at END) AS last_lost
    FROM attempts WHERE backend = :backend AND id > :after AND id <= :until"""
# Those whose answers were lost.
LOST_ATTEMPTS: Final = """
    SELECT id, price FROM attempts WHERE state = 'unknown' AND backend = :backend AND id > :after AND id <= :until"""

# --- alerts

# Those of some alerts that are remembered.
KNOWN_ALERTS: Final = "SELECT key, claimed_by, told_at FROM alerts WHERE key IN :keys"
# Remember an alert, which this process sends.
ADD_ALERT: Final = """
    INSERT INTO alerts (key, body, made_at, claimed_by, claimed_at, tries) VALUES (:key, :body, :now, :me, :now, 1)
    ON CONFLICT (key) DO NOTHING"""
# Alerts that were not sent, and that no process is about to send.
WAITING_ALERTS: Final = """
    SELECT key, body FROM alerts WHERE told_at IS NULL AND made_at > :since AND tries < :most_tries
    AND (claimed_at < :before OR claimed_at > :after) ORDER BY made_at LIMIT :limit"""
# Take over such an alert.
CLAIM_ALERT: Final = """
    UPDATE alerts SET claimed_by = :me, claimed_at = :now, tries = tries + 1 WHERE key = :key"""
# Note that an alert was sent.
SET_TOLD: Final = "UPDATE alerts SET told_at = :now WHERE key = :key"
# Leave an alert to others.
GIVE_ALERT_BACK: Final = "UPDATE alerts SET claimed_at = 0 WHERE key = :key AND claimed_by = :me"
