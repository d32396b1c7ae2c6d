//! The page of `bookend timeline --html` in a browser.

use std::fs;
use std::sync::{Mutex, PoisonError};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{End, Row, World, on_path, possible};

/// Runs the tests one at a time: their tasks have the same ids.
static ONE: Mutex<()> = Mutex::new(());

/// The page of a ledger with every kind of bar, written while one task runs.
struct Page {
    world: World,
    rows: Vec<Row>,
    text: String,
}

fn page(test: &str) -> Option<Page> {
    let needed = possible(test, on_path("chromium"), "chromium");
    let world = needed.then(|| World::of_bookend(test)).flatten()?;
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    world.run(["true"]).options(["--id", "well", "--key", "<i>&\"key\""]).run().ended(End::Code(0));
    world.run_sh("exit 3").options(["--id", "badly"]).run().ended(End::Code(3));
    world.run(["sleep", "1000"]).options(["--id", "late", "--timeout", "10ms"]).run();
    world.run(["true"]).options(["--id", "unseen"]).run().ended(End::Code(0));
    let mut up = world.fifo("up");
    let script = format!("echo up >{}; exec sleep 1000", up.path());
    let stopped = world.run_sh(&script).options(["--id", "stopped"]).start();
    up.line();
    stopped.signal(Signal::TERM);
    stopped.wait();
    let running = world.run_sh(&script).options(["--id", "going"]).start();
    up.line();
    world.write("UPDATE task_history SET finished_at = NULL WHERE id = 'unseen'");
    world
        .bare(["bookend", "timeline", "--html", &world.name("page.html")])
        .run()
        .ended(End::Code(0))
        .silent();
    let rows = world.rows();
    drop(running);
    let text = fs::read_to_string(world.path("page.html")).expect("the page");
    Some(Page { world, rows, text })
}

/// Measures the page from inside, and appends the result to it.
const MEASURE: &str = r#"<script>
addEventListener("load", () => {
  const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.right, r.height]; };
  const style = e => getComputedStyle(e);
  const rows = [...document.querySelectorAll(".row")].map(row => {
    const [bar, lane, tip] = [".bar", ".lane", ".tip"].map(c => row.querySelector(c));
    const hidden = style(tip).display;
    row.focus();
    return { name: row.querySelector(".name").textContent, bar: box(bar), lane: box(lane),
      classes: bar.className, colour: style(bar).backgroundColor, tip: tip.innerText, hidden,
      shown: style(tip).display, tip_box: box(tip), card: style(tip).backgroundColor };
  });
  const seen = { rows, ticks: [...document.querySelectorAll(".tick")].map(box).filter(b => b[2] > 0),
    ground: style(document.body).backgroundColor, ink: style(document.body).color,
    faint: style(document.querySelector("p")).color, width: document.documentElement.scrollWidth,
    window: innerWidth, fetched: performance.getEntriesByType("resource").map(e => e.name) };
  document.body.append(Object.assign(document.createElement("pre"),
    { id: "seen", textContent: JSON.stringify(seen) }));
});
</script>"#;

/// The measured page in a window of this width. A browser that received the focus too late shows no
/// details, so the measurement is repeated up to four times.
fn measured(page: &Page, dark: bool, width: u32) -> Value {
    let focused = |seen: &Value| list(&seen["rows"]).iter().all(|row| row["shown"] == "block");
    let mut seen = measure(page, dark, width);
    for _ in 0..4 {
        if focused(&seen) {
            break;
        }
        seen = measure(page, dark, width);
    }
    seen
}

fn measure(page: &Page, dark: bool, width: u32) -> Value {
    let world = &page.world;
    let measured = world.name("measured.html");
    // The page's own policy would block the script.
    let open = page.text.replacen("Content-Security-Policy", "no-policy", 1);
    assert_ne!(open, page.text, "the page has a policy");
    fs::write(&measured, format!("{open}{MEASURE}")).expect("the page with the script");
    let scheme = format!("--blink-settings=preferredColorScheme={}", u8::from(!dark));
    let profile = format!("--user-data-dir={}", world.name(&format!("profile-{width}")));
    let window = format!("--window-size={width},800");
    let url = format!("file://{measured}");
    let words =
        "chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run
        --disable-background-networking --disable-component-update --disable-sync --dump-dom";
    let own = [scheme.as_str(), &profile, &window, &url];
    let dom = world.bare(words.split_whitespace().chain(own)).run().ended(End::Code(0)).stdout;
    let (_, after) = dom.split_once("<pre id=\"seen\">").unwrap_or_else(|| panic!("no measurement: {dom}"));
    let (json, _) = after.split_once("</pre>").expect("its end");
    let json = json.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e}: {json}"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a string: {value}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("not an array: {value}"))
}

/// The relative luminance of `rgb(r, g, b)`: <https://www.w3.org/TR/WCAG22/#dfn-relative-luminance>.
fn luminance(colour: &Value) -> f64 {
    let inner = text(colour).strip_prefix("rgb(").and_then(|c| c.strip_suffix(')'));
    let parts = inner.unwrap_or_else(|| panic!("not an opaque colour: {colour}")).split(',').map(|part| {
        let part = part.trim().parse::<f64>().expect("a part of a colour") / 255.0;
        if part <= 0.04045 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
    });
    parts.zip([0.2126, 0.7152, 0.0722]).map(|(part, weight)| part * weight).sum()
}

/// The contrast of two colours, from 1 to 21: <https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio>.
fn contrast(one: &Value, other: &Value) -> f64 {
    let (one, other) = (luminance(one), luminance(other));
    (one.max(other) + 0.05) / (one.min(other) + 0.05)
}

fn assert_every_task_is_shown(page: &Page, seen: &Value) {
    let shown = list(&seen["rows"]);
    assert_eq!(shown.len(), page.rows.len(), "{seen:#}");
    for (id, classes) in [
        ("well", "bar success seen"),
        ("badly", "bar failure seen"),
        ("late", "bar cancelled seen"),
        ("unseen", "bar success inferred"),
        ("stopped", "bar interrupted seen"),
        ("going", "bar running open"),
    ] {
        let is_it = |r: &&Value| text(&r["name"]).split(' ').next() == Some(id);
        let shown = shown.iter().find(is_it).unwrap_or_else(|| panic!("no bar of {id}: {seen:#}"));
        assert_eq!(shown["classes"], classes, "{id}");
        let (bar, lane) = (&shown["bar"], &shown["lane"]);
        assert!(
            number(&bar[1]) - number(&bar[0]) >= 2.9 && number(&bar[2]) > 5.0,
            "{id} is visible: {shown:#}"
        );
        let inside = number(&bar[0]) >= number(&lane[0]) - 0.5 && number(&bar[1]) <= number(&lane[1]) + 0.5;
        assert!(inside, "{id} is on the axis: {shown:#}");
        assert!(contrast(&shown["colour"], &seen["ground"]) >= 3.0, "{id}: {shown:#}");

        assert_eq!((&shown["hidden"], &shown["shown"]), (&"none".into(), &"block".into()), "{id}");
        assert!(contrast(&seen["ink"], &shown["card"]) >= 4.5, "{id}: {shown:#}");
        let row = page.rows.iter().find(|r| r.text("id") == id).expect("its row");
        let details = text(&shown["tip"]);
        let end = match id {
            "unseen" => "end time unknown".to_owned(),
            "going" => "still running".to_owned(),
            _ => format!("finished {}", row.text("finished_at")),
        };
        for detail in [id, &row.text("status"), &row.text("started_at"), &row.text("key"), &end] {
            assert!(details.contains(detail), "{id}: {detail:?} is not in {details:?}");
        }
    }
    let going = shown.iter().find(|r| text(&r["name"]).starts_with("going")).expect("the running task");
    let short_of_now = number(&going["lane"][1]) - number(&going["bar"][1]);
    assert!(short_of_now.abs() < 2.0, "a running bar extends to now: {going:#}");
}

fn assert_no_overlap(seen: &Value) {
    assert!(number(&seen["width"]) <= number(&seen["window"]), "no horizontal overflow: {seen:#}");
    let ticks = list(&seen["ticks"]);
    assert!(ticks.len() >= 2, "{seen:#}");
    for pair in ticks.windows(2) {
        assert!(number(&pair[0][1]) + 4.0 < number(&pair[1][0]), "overlapping times: {ticks:?}");
    }
    for row in list(&seen["rows"]) {
        let tip = &row["tip_box"];
        assert!(number(&tip[0]) >= 0.0 && number(&tip[1]) <= number(&seen["window"]), "{row:#}");
        assert!(number(&tip[1]) - number(&tip[0]) >= 150.0, "the details are too narrow: {row:#}");
    }
}

#[test]
fn the_page_shows_every_task_in_light_mode_and_fetches_nothing() {
    let Some(page) = page("the_page_shows_every_task_in_light_mode_and_fetches_nothing") else { return };
    for outside in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link"] {
        assert!(!page.text.contains(outside), "{outside}: {}", page.text);
    }
    let seen = measured(&page, false, 1200);
    assert_eq!(seen["fetched"], serde_json::json!([]));
    assert_every_task_is_shown(&page, &seen);
    assert_no_overlap(&seen);
    assert!(luminance(&seen["ground"]) > 0.8, "{seen:#}");
    assert!(contrast(&seen["faint"], &seen["ground"]) >= 4.5, "{seen:#}");
}

#[test]
fn the_page_follows_dark_mode_and_fits_a_narrow_window() {
    let Some(page) = page("the_page_follows_dark_mode_and_fits_a_narrow_window") else { return };
    let seen = measured(&page, true, 500);
    assert_every_task_is_shown(&page, &seen);
    assert_no_overlap(&seen);
    assert!(luminance(&seen["ground"]) < 0.1, "{seen:#}");
    assert!(contrast(&seen["faint"], &seen["ground"]) >= 4.5, "{seen:#}");
}
