//! The hooks in `contrib/hooks`, against a server on the loopback interface.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;

use crate::harness::{End, Output, STREAM, World, document, on_path, possible};

const SECRET: &str = "S3cret-t0ken";

/// A request: its first line and its headers, and its body.
#[derive(Debug, Clone)]
struct Request {
    head: String,
    body: String,
}

/// A server that answers each request with the next answer, and 201 after the last.
struct Receiver {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Receiver {
    fn start(answers: &[(u16, &str)]) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let mut answers: Vec<(u16, String)> =
            answers.iter().map(|(n, body)| (*n, (*body).to_owned())).collect();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let received = Arc::clone(&requests);
        // It ends with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let request = read(&stream);
                received.lock().expect("the requests").push(request);
                let (code, body) = if answers.is_empty() { (201, String::new()) } else { answers.remove(0) };
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {code} X\r\nContent-Length: {length}\r\nLocation: /elsewhere\r\n\
                     Connection: close\r\n\r\n{body}"
                );
                let _ = (&stream).write_all(answer.as_bytes());
            }
        });
        Receiver { port, requests }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("the requests").clone()
    }
}

fn read(stream: &TcpStream) -> Request {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while reader.read_line(&mut head).expect("a line") > 2 {}
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).expect("the body");
    Request { head, body: String::from_utf8(body).expect("UTF-8") }
}

fn script(name: &str) -> String {
    format!("{}/contrib/hooks/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A world in which `curl` notes its arguments, with the secret in the file `token`.
fn world(test: &str) -> Option<World> {
    let world = World::of_bookend(test)?;
    if !possible(test, on_path("curl"), "curl") {
        return None;
    }
    let found = world.bare(["sh", "-c", "command -v curl"]).run().ended(End::Code(0)).stdout;
    let curl = format!("#!/bin/sh\nprintf '%s\\n' \"$@\" >>\"$HOME/curl\"\nexec {} \"$@\"\n", found.trim());
    world.program("curl", &curl);
    fs::write(world.path("token"), format!("{SECRET}\n")).expect("the token");
    Some(world)
}

/// Runs `true` for an issue with this hook.
fn run(world: &World, id: &str, hook: &str) -> Output {
    let options = ["--id", id, "--repo", "a/b", "--issue", "7", "--agent", "dev", "--on-finish", hook];
    world.run(["true"]).options(options).env("no_proxy", "*").run().ended(End::Code(0))
}

fn delivered(world: &World, id: &str) -> String {
    let row = world.rows().into_iter().find(|row| row.text("id") == id).expect("its row");
    row.text("delivery_status")
}

fn no_argument_holds_the_secret(world: &World) {
    let noted = fs::read_to_string(world.path("home/curl")).expect("the arguments of curl");
    assert!(!noted.contains(SECRET), "{noted}");
}

#[test]
fn the_webhook_posts_the_row() {
    let Some(world) = world("the_webhook_posts_the_row") else { return };
    let receiver = Receiver::start(&[(204, "")]);
    let config = format!("url = \"{}/hook\"\nheader = \"Authorization: Bearer {SECRET}\"\n", receiver.url());
    fs::write(world.path("config"), config).expect("the configuration");
    let hook = format!("{} {}", script("webhook"), world.name("config"));
    run(&world, "one", &hook).silent();
    assert_eq!(delivered(&world, "one"), "delivered");
    let [request] = &receiver.requests()[..] else { panic!("{:?}", receiver.requests()) };
    assert!(request.head.starts_with("POST /hook "), "{request:?}");
    for header in [
        &format!("Authorization: Bearer {SECRET}\r\n"),
        "Content-Type: application/json\r\n",
        "Idempotency-Key: one\r\n",
    ] {
        assert!(request.head.contains(header), "{header} in {request:?}");
    }
    let row: Value = serde_json::from_str(&request.body).expect("JSON");
    assert_eq!((&row["id"], &row["status"]), (&"one".into(), &"success".into()));
    no_argument_holds_the_secret(&world);
}

#[test]
fn a_webhook_is_posted_again_if_the_receiver_is_unavailable() {
    let Some(world) = world("a_webhook_is_posted_again_if_the_receiver_is_unavailable") else { return };
    let receiver = Receiver::start(&[(503, "restarting"), (200, "accepted")]);
    fs::write(world.path("config"), format!("url = \"{}\"\n", receiver.url())).expect("the configuration");
    run(&world, "one", &format!("{} {}", script("webhook"), world.name("config"))).silent();
    assert_eq!(delivered(&world, "one"), "delivered");
    let bodies: Vec<String> = receiver.requests().into_iter().map(|request| request.body).collect();
    assert_eq!(bodies.len(), 2);
    assert_eq!(bodies[0], bodies[1]);
}

#[test]
fn a_webhook_that_is_not_accepted_fails() {
    let Some(world) = world("a_webhook_that_is_not_accepted_fails") else { return };
    // A redirection would lose the body.
    let receiver = Receiver::start(&[(404, ""), (302, "")]);
    fs::write(world.path("config"), format!("url = \"{}\"\n", receiver.url())).expect("the configuration");
    let hook = format!("{} {}", script("webhook"), world.name("config"));
    for (id, code) in [("one", 404), ("two", 302)] {
        let output = run(&world, id, &hook);
        assert!(output.stderr.contains(&format!("answered with HTTP status {code}")), "{output:?}");
        assert_eq!(delivered(&world, id), "failed");
    }
    run(&world, "three", &script("webhook"));
    assert_eq!(delivered(&world, "three"), "failed");
    // The operator repeats it once the receiver works again.
    world.bare(["bookend", "deliver", "one"]).env("no_proxy", "*").run().ended(End::Code(0));
    assert_eq!(receiver.requests().len(), 3);
}

#[test]
fn forge_comments_name_status_cost_and_task() {
    let Some(world) = world("forge_comments_name_status_cost_and_task") else { return };
    world.claude("init \"$id\"; result \"$id\" 0.25");
    for (forge, path, scheme) in [
        ("forgejo", "/api/v1/repos/a/b/issues/7/comments", "token"),
        ("github", "/repos/a/b/issues/7/comments", "Bearer"),
    ] {
        let receiver = Receiver::start(&[]);
        let hook = format!("{} {forge} {}/ {}", script("forge-comment"), receiver.url(), world.name("token"));
        let options =
            ["--id", forge, "--repo", "a/b", "--issue", "7", "--agent", "dev", "--on-finish", &hook];
        let output = world.run(STREAM).options(options).options(["--fresh"]).env("no_proxy", "*").run();
        output.ended(End::Code(0)).silent();
        assert_eq!(delivered(&world, forge), "delivered");
        let [request] = &receiver.requests()[..] else { panic!("{:?}", receiver.requests()) };
        assert!(request.head.starts_with(&format!("POST {path} ")), "{request:?}");
        assert!(request.head.contains(&format!("Authorization: {scheme} {SECRET}\r\n")), "{request:?}");
        let body: Value = serde_json::from_str(&request.body).expect("JSON");
        let expected = format!("dev: success after 0 min 0 s, $0.25, task `{forge}`");
        assert_eq!(body["body"].as_str(), Some(expected.as_str()));
    }
    no_argument_holds_the_secret(&world);
}

#[test]
fn a_repeated_hook_comments_once() {
    let Some(world) = world("a_repeated_hook_comments_once") else { return };
    let receiver =
        Receiver::start(&[(201, ""), (200, r#"[{"body":"dev: success, task `one`"}]"#), (200, "[]")]);
    let hook = format!("{} forgejo {} {}", script("forge-comment"), receiver.url(), world.name("token"));
    run(&world, "one", &hook).silent();
    for _ in 0..2 {
        let again = world.bare(["bookend", "deliver", "one", "--again"]).env("no_proxy", "*").run();
        again.ended(End::Code(0));
    }
    let lines: Vec<String> = receiver
        .requests()
        .iter()
        .map(|request| request.head.split(" HTTP").next().expect("a request line").to_owned())
        .collect();
    let path = "/api/v1/repos/a/b/issues/7/comments";
    let started = &world.row().text("started_at")[..19];
    let looked = format!("GET {path}?since={started}Z&limit=100&per_page=100");
    assert_eq!(lines, [format!("POST {path}"), looked.clone(), looked, format!("POST {path}")]);
}

#[test]
fn forge_comment_leaves_out_tasks_without_an_issue_and_refuses_hostile_values() {
    let test = "forge_comment_leaves_out_tasks_without_an_issue_and_refuses_hostile_values";
    let Some(world) = world(test) else { return };
    let receiver = Receiver::start(&[]);
    let hook = format!("{} forgejo {} {}", script("forge-comment"), receiver.url(), world.name("token"));
    let with = |id: &str, options: &[&str]| {
        let run = world.run(["true"]).options(["--id", id, "--on-finish", &hook]).env("no_proxy", "*");
        run.options(options.iter().copied()).run().ended(End::Code(0));
        delivered(&world, id)
    };
    assert_eq!(with("plain", &[]), "delivered");
    assert_eq!(with("label", &["--repo", "a/b"]), "delivered");
    for (n, repo) in ["../..", "a/b/../../c", "a/b?x=1", "a", "a/b\nheader"].into_iter().enumerate() {
        assert_eq!(with(&format!("repo{n}"), &["--repo", repo, "--issue", "7"]), "failed", "{repo}");
    }
    assert_eq!(receiver.requests().len(), 0);
    let hostile = "\"@all\\ \n\u{1b}x";
    assert_eq!(with("agent", &["--repo", "a/b", "--issue", "7", "--agent", hostile]), "delivered");
    fs::write(world.path("token"), "a\"\nurl = \"file:///etc/passwd").expect("a hostile token");
    assert_eq!(with("token", &["--repo", "a/b", "--issue", "7"]), "failed");
    let [request] = &receiver.requests()[..] else { panic!("{:?}", receiver.requests()) };
    let body: Value = serde_json::from_str(&request.body).expect("JSON");
    assert!(body["body"].as_str().is_some_and(|text| text.starts_with("all x: success after ")), "{body}");
}

#[test]
fn the_package_installs_the_hooks_as_programs() {
    assert!(document("Cargo.toml").contains("[\"contrib/hooks/*\", \"usr/share/bookend/hooks/\", \"755\"]"));
    for name in ["webhook", "forge-comment"] {
        let mode = fs::metadata(Path::new(&script(name))).expect("a hook").permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "{name} is executable");
    }
}
