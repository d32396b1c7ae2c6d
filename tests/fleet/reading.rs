//! What the reading commands show of a fleet. The rows of other hosts are written by the superuser.

use serde_json::{Value, json};

use crate::harness::{End, Output, World};
use crate::node::Node;
use crate::postgres::Postgres;

const JOIN: &str = include_str!("../../src/ledger/fleet/join.sql");
const HERE: &str = "00000000-0000-4000-8000-00000000000a";
const THERE: &str = "00000000-0000-4000-8000-00000000000b";
const GONE: &str = "00000000-0000-4000-8000-00000000000c";

/// A ledger in a fleet, with two other hosts: `there`, and `gone`, which does not answer.
pub struct Site {
    pub world: World,
    pub postgres: Postgres,
}

impl Site {
    pub fn new(test: &str) -> Option<Site> {
        let world = World::of_bookend(test)?;
        let postgres = Postgres::with_schema(test)?;
        postgres.role("reader", &["bookend_read"]);
        for (node, host, age) in [(HERE, "here", "0"), (THERE, "there", "0"), (GONE, "gone", "1 hour")] {
            postgres.psql(&format!(
                "INSERT INTO bookend.node (id, host, role) VALUES ('{node}', '{host}', 'reader');
                 INSERT INTO bookend.lease (node, seq, renewed_at)
                 VALUES ('{node}', 1, clock_timestamp() + interval '1 day' * ('{host}' <> 'gone')::int
                         - interval '{age}')"
            ));
        }
        let site = Site { world, postgres };
        site.world.run(["true"]).options(["--id", "own", "--agent", "dev"]).run().ended(End::Code(0));
        let setting = json!({"url": site.postgres.database_url("reader"), "node": HERE, "ledger": HERE,
                             "joined_at": "2026-11-30T12:00:00Z"});
        site.world.write(&format!(
            "{JOIN}; INSERT INTO bookend_setting (name, value) VALUES ('fleet', '{setting}');
             INSERT INTO fleet_dirty (task_id) SELECT id FROM task_history"
        ));
        Some(site)
    }

    /// A row of another host. `columns` are further ones with their values in SQL.
    fn row(&self, node: &str, id: &str, status: &str, started: &str, columns: &[(&str, &str)]) {
        let names: String = columns.iter().map(|(name, _)| format!(", {name}")).collect();
        let values: String = columns.iter().map(|(_, value)| format!(", {value}")).collect();
        self.postgres.psql(&format!(
            "INSERT INTO bookend.task_history
                 (id, status, started_at, node, epoch, rev, published_at, host, agent,
                  delivery_attempts{names})
             SELECT '{id}', '{status}', {started}, n.id, 1, 1, now(), n.host, 'dev', 0{values}
             FROM bookend.node n WHERE n.id = '{node}'"
        ));
    }

    pub fn bookend(&self, words: &[&str]) -> Output {
        let command = self.world.bare(["bookend"].iter().chain(words).copied());
        command.env("PGPASSFILE", self.postgres.password_file()).run()
    }

    pub fn prints(&self, words: &[&str]) -> String {
        self.bookend(words).ended(End::Code(0)).silent().stdout
    }

    pub fn json(&self, words: &[&str]) -> Value {
        let text = self.prints(&[words, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    pub fn ids(&self, words: &[&str]) -> Vec<String> {
        let listed = self.json(&[&["list"], words].concat());
        let tasks = listed["tasks"].as_array().expect("tasks").iter();
        tasks.map(|task| task["id"].as_str().expect("an id").to_owned()).collect()
    }

    fn url(&self) -> String {
        self.postgres.database_url("reader")
    }
}

const HOUR_AGO: &str = "now() - interval '1 hour'";
const TOMORROW: &str = "now() + interval '1 day'";

#[test]
fn list_shows_the_tasks_of_all_hosts_in_one_order() {
    let Some(site) = Site::new("list_shows_the_tasks_of_all_hosts_in_one_order") else { return };
    site.row(
        THERE,
        "older",
        "failure",
        HOUR_AGO,
        &[("key", "'k'"), ("exit_code", "3"), ("reason", "'exit'")],
    );
    site.row(THERE, "newer", "success", TOMORROW, &[]);
    site.row(GONE, "lost-sight", "running", HOUR_AGO, &[("agent_pid", "77")]);
    // The ledger knows better what became of the tasks of this host.
    site.row(HERE, "own", "running", HOUR_AGO, &[]);
    assert_eq!(site.ids(&[]), ["lost-sight", "newer", "own", "older"]);
    assert_eq!(site.ids(&["--status", "running"]), ["lost-sight"]);
    assert_eq!(site.ids(&["--failed"]), ["older"]);
    assert_eq!(site.ids(&["--key", "k"]), ["older"]);
    assert_eq!(site.ids(&["--limit", "2"]), ["lost-sight", "newer"]);
    assert_eq!(site.ids(&["--since", "30m", "--until", "2100-01-01"]), ["newer", "own"]);
    assert_eq!(site.ids(&["--here"]), ["own"]);
    assert_eq!(site.ids(&["--ledger", &site.url()]), ["own", "lost-sight", "newer", "older"]);

    let table = site.prints(&["list"]);
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0][..4], ["ID", "STATUS", "WHY", "HOST"], "{table}");
    assert!(words[1].starts_with(&["lost-sight", "running", "unreachable", "since"]), "{table}");
    assert!(words[2].starts_with(&["newer", "success", "there"]), "{table}");
    assert!(words[4].starts_with(&["older", "failure", "exit", "3", "there"]), "{table}");
    assert!(!site.prints(&["list", "--here"]).contains("HOST"));

    let tasks = site.json(&["list"])["tasks"].clone();
    let renewed = site
        .postgres
        .psql(&format!("SELECT bookend.shown(renewed_at) FROM bookend.lease WHERE node = '{GONE}'"));
    assert_eq!(tasks[0]["unreachable_since"], json!(renewed));
    assert_eq!((&tasks[1]["node"], &tasks[1]["unreachable_since"]), (&json!(THERE), &Value::Null));
    assert_eq!((&tasks[2]["node"], &tasks[2]["argv"]), (&json!(HERE), &json!(["true"])));
    let here = &site.json(&["list", "--here"])["tasks"][0];
    assert!(here.get("node").is_none() && here.get("late").is_none(), "{here}");
}

#[test]
fn a_long_list_is_merged_page_by_page() {
    let Some(site) = Site::new("a_long_list_is_merged_page_by_page") else { return };
    site.postgres.psql(&format!(
        "INSERT INTO bookend.task_history (id, status, started_at, node, epoch, rev, published_at, host)
         SELECT 'r' || n, 'success', now() - interval '1 s' * n, '{THERE}', 1, n, now(), 'there'
         FROM generate_series(1, 300) n"
    ));
    let all = site.ids(&[]);
    assert_eq!(all.len(), 301);
    let mut expected: Vec<String> = (1..=300).map(|n| format!("r{n}")).collect();
    let own = all.iter().position(|id| id == "own").expect("the own task");
    expected.insert(own, "own".to_owned());
    assert_eq!(all, expected);
    assert_eq!(site.ids(&["--limit", "150"]), expected[..150]);
    assert!(site.prints(&["list"]).ends_with("20 of 301 (--limit N)\n"));
    let lines = site.prints(&["list", "--jsonl"]);
    assert_eq!(lines.lines().count(), 301);
}

#[test]
fn show_finds_a_task_of_this_host_first_and_then_one_of_the_fleet() {
    let Some(site) = Site::new("show_finds_a_task_of_this_host_first_and_then_one_of_the_fleet") else {
        return;
    };
    site.row(
        THERE,
        "ow-1",
        "failure",
        HOUR_AGO,
        &[
            ("cwd", "'/srv'"),
            ("key", "'k'"),
            ("boot_id", "'b'"),
            ("supervisor_pid", "7"),
            ("session_id", "'s'"),
            ("agent_type", "'claude'"),
        ],
    );
    site.row(THERE, "ow-2", "success", TOMORROW, &[("replaces", "'ow-1'"), ("key", "'k'")]);
    site.row(GONE, "far", "running", HOUR_AGO, &[]);
    site.postgres.psql(&format!(
        "INSERT INTO bookend.task_transition 
         VALUES ('ow-1', 1, now(), NULL, 'running', NULL, 7, 'run', '{THERE}');
         INSERT INTO bookend.session_invalidation (node, key, session_id, task_id, reason, at)
         VALUES ('{THERE}', 'k', 's', 'ow-1', 'it failed', now())"
    ));
    let shown = site.json(&["show", "ow-1"]);
    assert_eq!((&shown["task"]["host"], &shown["replaced_by"]), (&json!("there"), &json!("ow-2")));
    assert_eq!(shown["transitions"][0]["by_command"], "run");
    assert_eq!(shown["invalidations"][0]["reason"], "it failed");
    let page = site.prints(&["show", "ow-1"]);
    // Neither a path nor a command comes from another host.
    for absent in ["transcript", "resume with", "run again", "restore", "journal"] {
        assert!(!page.contains(absent), "{absent}: {page}");
    }
    assert!(page.contains("there") && page.contains("/srv"), "{page}");
    let far = site.prints(&["show", "fa"]);
    assert!(
        far.contains("not known: its host is unreachable since") && far.contains("declare-lost gone settles"),
        "{far}"
    );
    assert_eq!(site.json(&["show", "own"])["task"]["id"], "own");
    assert_eq!(site.json(&["show"])["task"]["id"], "ow-2");
    assert_eq!(site.json(&["show", "--key", "k"])["task"]["id"], "ow-2");
    assert_eq!(site.json(&["show", "--here"])["task"]["id"], "own");
    let several = site.bookend(&["show", "ow"]).ended(End::Code(2));
    assert!(
        ["own  success", "ow-1  failure", "ow-2  success"].iter().all(|id| several.stderr.contains(id)),
        "{several:?}"
    );
    let none = site.bookend(&["show", "nothing"]).ended(End::Code(1));
    assert!(none.stderr.contains("no task nothing in") && none.stderr.contains("its fleet"), "{none:?}");
    site.bookend(&["show", "ow-1", "--here"]).ended(End::Code(1));
    assert_eq!(site.json(&["show", "ow-1", "--ledger", &site.url()])["task"]["id"], "ow-1");
}

#[test]
fn figures_are_those_of_a_ledger_with_the_same_rows() {
    let Some(site) = Site::new("figures_are_those_of_a_ledger_with_the_same_rows") else { return };
    site.world.write(
        "DELETE FROM fleet_dirty; DELETE FROM task_history;
         INSERT INTO task_history (id, status, started_at, finished_at, agent, repo, key, model, cost_usd,
             duration_ms,
             turns, input_tokens, output_tokens, cache_read_tokens)
         WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 500)
         SELECT 't' || n, iif(n % 7, 'success', 'failure'),
                strftime('%Y-%m-%dT%H:00:00.000Z', '2026-11-30', '-' || n || ' hours'),
                '2026-11-30T12:00:00.000Z',
                iif(n % 5, 'Agent ' || (n % 3), NULL), 'r' || (n % 2), iif(n % 11, 'k' || (n % 4), NULL), 'm',
                CASE n WHEN 9 THEN 1e300 WHEN 10 THEN NULL ELSE n / 64.0 END, n * 17, n % 13, n, n * 2, NULL
         FROM n",
    );
    let fleet = |words: &[&str]| site.prints(&[&["stats"], words].concat());
    let here = |words: &[&str]| site.prints(&[&["stats", "--here"], words].concat());
    let questions: [&[&str]; 8] = [
        &[],
        &["--json"],
        &["--by", "all", "--json"],
        &["--by", "day,key", "--json", "--limit", "7"],
        &["--by", "key,repo", "--json"],
        &["--by", "model", "--failed", "--json"],
        &["--by", "agent", "--key", "k1"],
        &["--since", "2026-11-20", "--until", "2026-11-25", "--json"],
    ];
    // All of them are unpublished: they are sent with the question.
    for question in questions {
        assert_eq!(fleet(question), here(question), "{question:?}");
    }
    let rows = site.prints(&["list", "--here", "--jsonl"]);
    let rows = format!("[{}]", rows.lines().collect::<Vec<_>>().join(","));
    site.postgres.psql(&format!(
        "INSERT INTO bookend.task_history
         SELECT (jsonb_populate_record(NULL::bookend.task_history, value
             || jsonb_build_object('node', '{HERE}', 'epoch', 1, 'rev', 1, 'published_at', now()))).*
         FROM jsonb_array_elements($rows${rows}$rows$)"
    ));
    site.world.write("DELETE FROM fleet_dirty WHERE task_id <> 't3'");
    for question in questions {
        assert_eq!(fleet(question), here(question), "{question:?}");
        let alone = site.prints(&[&["stats", "--ledger", &site.url()], question].concat());
        assert_eq!(alone, here(question), "{question:?}");
    }
    site.row(THERE, "other", "success", TOMORROW, &[("cost_usd", "0.5")]);
    assert_eq!(site.json(&["stats"])["total"]["runs"], 501);
    assert_eq!(site.json(&["stats", "--here"])["total"]["runs"], 500);
}

#[test]
fn timeline_has_a_lane_for_each_key_of_the_fleet_and_names_the_hosts() {
    let Some(site) = Site::new("timeline_has_a_lane_for_each_key_of_the_fleet_and_names_the_hosts") else {
        return;
    };
    site.row(
        THERE,
        "a",
        "success",
        HOUR_AGO,
        &[("key", "'k'"), ("finished_at", "now()"), ("last_seen_at", "now()")],
    );
    site.row(GONE, "b", "running", HOUR_AGO, &[("key", "'k'"), ("last_seen_at", HOUR_AGO)]);
    site.row(
        THERE,
        "c",
        "success",
        "now() - interval '2 days'",
        &[("finished_at", "now()"), ("last_seen_at", "now()")],
    );
    let text = site.prints(&["timeline"]);
    let of_key = text.lines().find(|line| line.starts_with("k ")).unwrap_or_else(|| panic!("{text}"));
    assert!(of_key.contains("gone, there") || of_key.contains("there, gone"), "{text}");
    assert!(text.contains("~ 1 unreachable") && text.contains("✓ 3 success"), "{text}");
    let own = site.prints(&["timeline", "--here"]);
    assert!(!own.contains("HOST") && own.contains("✓ 1 success"), "{own}");
    let page = site.world.name("page.html");
    site.prints(&["timeline", "--html", &page]);
    let page = std::fs::read_to_string(page).expect("the page");
    assert!(page.contains("host there<") && page.contains("dev on "), "{page}");
    assert!(page.contains("running (unreachable since"), "{page}");
}

#[test]
fn audit_finds_what_is_wrong_on_other_hosts() {
    let Some(site) = Site::new("audit_finds_what_is_wrong_on_other_hosts") else { return };
    site.row(GONE, "lost-sight", "running", HOUR_AGO, &[]);
    site.row(
        THERE,
        "late",
        "interrupted",
        HOUR_AGO,
        &[
            ("reason", "'host_lost'"),
            ("hinted_at", "now()"),
            ("late", r#"'{"status": "success", "finished_at": "2026-11-30T12:00:00Z"}'"#),
        ],
    );
    site.row(
        THERE,
        "hook",
        "success",
        HOUR_AGO,
        &[("delivery_status", "'failed'"), ("finished_at", "now()")],
    );
    site.row(THERE, "odd", "success", TOMORROW, &[("finished_at", "now()")]);
    site.row(HERE, "own", "success", TOMORROW, &[("finished_at", "now()")]);
    let late = r#"'{"status": "interrupted", "finished_at": "2026-11-30T12:00:00Z"}'"#;
    let lost = [("reason", "'host_lost'"), ("hinted_at", "now()"), ("late", late)];
    site.row(THERE, "twice", "interrupted", HOUR_AGO, &lost);
    site.postgres.psql(&format!(
        "INSERT INTO bookend.finding (node, kind, subject, detail) VALUES ('{THERE}', 'double_claim', 'twice',
         '{{\"key\": \"k\", \"other_task\": \"x\", \"other_host\": \"gone\"}}')"
    ));
    let named = format!(" --ledger {}", site.world.ledger().display());
    let found = |words: &[&str]| -> Vec<(String, String, String)> {
        let audit = site.json(&[&["audit"], words].concat());
        let text = |f: &Value, name: &str| f[name].as_str().unwrap_or_default().to_owned();
        let findings = audit["findings"].as_array().expect("findings").iter();
        findings.map(|f| (text(f, "code"), text(f, "task"), text(f, "fix").replace(&named, ""))).collect()
    };
    let of = |code: &str, task: &str, fix: &str| (code.to_owned(), task.to_owned(), fix.to_owned());
    let all = [
        of("double_claim", "twice", "bookend show twice"),
        of("late_ending", "late", "bookend show late"),
        of("unreachable", "lost-sight", "bookend fleet declare-lost gone"),
        of("delivery_failed", "hook", "bookend deliver hook  # on there"),
        of("inconsistent_timestamps", "odd", "bookend show odd"),
    ];
    let mut here = found(&[]);
    here.sort_by_key(|(_, task, _)| all.iter().position(|(_, other, _)| other == task));
    assert_eq!(here, all);
    assert_eq!(found(&["--here"]), []);
    assert_eq!(found(&["--code", "double_claim"]).len(), 1);
    site.bookend(&["audit", "--fail-on", "error"]).ended(End::Code(1));
    let page = site.prints(&["show", "late"]);
    assert!(page.contains("success at 2026-11-30T12:00:00Z, after the fleet had ended it"), "{page}");
    let there = found(&["--ledger", &site.url()]);
    assert_eq!(there.len(), 6);
    let is_elsewhere = |fix: &str| fix.contains(" --ledger postgres://") || fix.contains("  # on there");
    assert!(there.iter().all(|(_, _, fix)| is_elsewhere(fix)), "{there:?}");
}

#[test]
fn without_postgresql_the_own_rows_are_shown_with_one_warning() {
    let Some(site) = Site::new("without_postgresql_the_own_rows_are_shown_with_one_warning") else { return };
    site.postgres.stop();
    for words in [&["list"][..], &["show", "own"], &["stats"], &["timeline"], &["audit"], &["list", "--json"]]
    {
        let output = site.bookend(words).ended(End::Code(0));
        let warnings = output.stderr.matches("bookend: warning: ").count();
        assert_eq!(warnings, 1, "{words:?}: {output:?}");
        assert!(output.stderr.contains("only tasks of this host are shown: PostgreSQL at"), "{output:?}");
        assert!(words == ["audit"] || output.stdout.contains("own") || words[0] != "list", "{output:?}");
        site.prints(&[words, &["--here"]].concat());
    }
    let missing = site.bookend(&["show", "nothing"]).ended(End::Code(1));
    assert!(missing.stderr.contains("no task nothing"), "{missing:?}");
    let alone = site.bookend(&["list", "--ledger", &site.url()]).ended(End::Code(125));
    assert!(alone.stderr.contains("is not reachable"), "{alone:?}");
}

#[test]
fn only_reading_commands_take_the_url_of_a_database() {
    let Some(site) = Site::new("only_reading_commands_take_the_url_of_a_database") else { return };
    let url = site.url();
    let refused: [&[&str]; 9] = [
        &["run", "--", "true"],
        &["cancel", "--all"],
        &["redispatch", "x"],
        &["resume", "x"],
        &["deliver"],
        &["recover"],
        &["prune"],
        &["session", "list"],
        &["list", "--here"],
    ];
    for words in refused {
        let (command, rest) = words.split_at(1);
        let output = site.bookend(&[command, &["--ledger", &url], rest].concat()).ended(End::Code(2));
        assert!(
            output.stderr.contains("--ledger names") && output.stdout.is_empty(),
            "{words:?}: {output:?}"
        );
    }
    let by_variable = site.world.bare(["bookend", "list"]).env("BOOKEND_LEDGER", &url).run();
    assert!(by_variable.ended(End::Code(2)).stderr.contains("$BOOKEND_LEDGER names"));
    for file in ["postgres:", "postgresql:"] {
        assert!(!site.world.path("home").join(file).exists());
    }
    let secret =
        site.bookend(&["run", "--ledger", "postgres://a:secret@h/d", "--", "true"]).ended(End::Code(2));
    assert!(!secret.stderr.contains("secret"), "{secret:?}");
}

#[test]
fn text_of_other_hosts_cannot_control_the_terminal() {
    let Some(site) = Site::new("text_of_other_hosts_cannot_control_the_terminal") else { return };
    let evil = "U&'\\001b[31m\\202e\\000ax'";
    let columns =
        ["key", "error", "reason", "cwd", "model", "repo", "provider", "cgroup", "session_untracked"];
    let columns: Vec<(&str, &str)> = columns.iter().map(|name| (*name, evil)).collect();
    site.row(GONE, "evil", "running", HOUR_AGO, &columns);
    site.row(
        THERE,
        "evil-2",
        "failure",
        HOUR_AGO,
        &[&columns[..], &[("delivery_status", "'failed'")]].concat(),
    );
    site.postgres.psql(&format!("UPDATE bookend.task_history SET host = {evil}, agent = {evil}"));
    let commands: [&[&str]; 8] = [
        &["list"],
        &["list", "--json"],
        &["show", "evil"],
        &["show", "evil-2"],
        &["show", "evil", "--json"],
        &["stats", "--by", "key,agent"],
        &["timeline"],
        &["audit"],
    ];
    for words in commands {
        let text = site.prints(words);
        assert!(!text.contains(['\u{1b}', '\u{202e}']) && text.contains("31m"), "{words:?}: {text}");
    }
}

#[test]
fn a_ledger_that_others_can_write_chooses_no_database() {
    let Some(site) = Site::new("a_ledger_that_others_can_write_chooses_no_database") else { return };
    site.row(THERE, "other", "success", HOUR_AGO, &[]);
    let mode = |mode: &str| {
        let ledger = site.world.name("state/bookend/bookend.db");
        let script = format!("chmod {mode} {ledger} $(ls {ledger}-*)");
        site.world.bare(["sh", "-c", &script]).run().ended(End::Code(0));
    };
    mode("666");
    let output = site.bookend(&["list", "--jsonl"]).ended(End::Code(0));
    assert!(output.stderr.contains("other users may write to"), "{output:?}");
    assert_eq!(output.stdout.lines().count(), 1);
    mode("600");
    assert_eq!(site.ids(&[]).len(), 2);
}

#[test]
fn each_of_two_ledgers_shows_the_tasks_of_both() {
    let test = "each_of_two_ledgers_shows_the_tasks_of_both";
    let Some(postgres) = Postgres::with_schema(test) else { return };
    let nodes = ["a", "b"].map(|name| Node::start(&postgres, name));
    let bookend = |node: &Node, words: &[&str]| {
        let command = node.world.bare(["bookend"].iter().chain(words).copied());
        let output = command.env("PGPASSFILE", postgres.password_file()).run().ended(End::Code(0)).silent();
        output.stdout
    };
    let json = |node: &Node, words: &[&str]| -> Value {
        serde_json::from_str(&bookend(node, &[words, &["--json"]].concat())).expect("JSON")
    };
    for (node, script) in nodes.iter().zip(["exit 0", "exit 3"]) {
        let id = format!("on-{}", node.role);
        node.world.run_sh(script).options(["--id", &id, "--key", &id]).run();
    }
    nodes.iter().for_each(Node::published);
    for (node, other) in [(&nodes[0], "on-bookend_b"), (&nodes[1], "on-bookend_a")] {
        let listed = json(node, &["list"]);
        assert_eq!(listed["tasks"].as_array().map(Vec::len), Some(2), "{listed}");
        let shown = json(node, &["show", other]);
        assert_eq!((&shown["task"]["id"], &shown["task"]["argv"]), (&json!(other), &Value::Null), "{shown}");
        assert_eq!(shown["transitions"].as_array().map(Vec::len), Some(2), "{shown}");
        for words in [["logs", other], ["redispatch", other]] {
            let output = node.world.bare(["bookend"].iter().chain(&words).copied()).run();
            assert!(output.stderr.contains("if it is a task of another host, use"), "{}", output.stderr);
            assert!(output.stderr.contains(&format!(" {other}` names the host")), "{}", output.stderr);
        }
        let total = &json(node, &["stats"])["total"];
        assert_eq!((&total["runs"], &total["failure"]), (&json!(2), &json!(1)), "{total}");
    }
    // The same columns, whether a row comes from its ledger or from the database.
    let [own, published] =
        [&nodes[0], &nodes[1]].map(|node| json(node, &["show", "on-bookend_a"])["task"].clone());
    for (name, value) in own.as_object().expect("a task") {
        let is_withheld = published[name].is_null();
        assert!(is_withheld || published[name] == *value, "{name}: {value} and {}", published[name]);
    }
    assert!(["status", "started_at", "key", "host", "cpu_ms"].iter().all(|name| !published[name].is_null()));
}
