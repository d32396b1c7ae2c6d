//! `bookend timeline` on a terminal, and its page in a browser.

use std::fs;
use std::sync::{Mutex, PoisonError};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{End, Pty, Row, World, on_path, possible};

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
    world.write(
        "UPDATE task_history SET finished_at = NULL WHERE id = 'unseen';
         UPDATE task_history SET started_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-3 hours')
             WHERE id = 'well';",
    );
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

/// Measures the page in a frame, which may be narrower than the window of a browser, and adds the result to
/// the document around it. The page itself, with its policy, is unchanged.
const MEASURE: &str = r#"<pre id="seen" hidden></pre><script>
addEventListener("load", () => {
  const inner = document.querySelector("iframe").contentWindow, page = inner.document;
  const root = page.documentElement, all = names => [...page.querySelectorAll(names)];
  const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.right, r.top, r.bottom]; };
  const style = e => inner.getComputedStyle(e);
  const bars = all(".bar").slice(0, 60).map(bar => {
    const tip = bar.nextElementSibling, hidden = style(tip).display;
    bar.focus({ preventScroll: true });
    return { id: tip.innerText.split("\n")[0], bar: box(bar), line: box(bar.parentElement),
      classes: bar.className, colour: style(bar).backgroundColor, symbol: bar.innerText, tip: tip.innerText,
      symbol_colour: style(bar.firstChild).color, hidden, shown: style(tip).display, tip_box: box(tip),
      card: style(tip).backgroundColor };
  });
  page.activeElement.blur();
  const visible = e => style(e).display != "none";
  const seen = { bars, ticks: all("section:first-of-type .tick").filter(visible).map(box),
    labels: all(".label").map(label => {
      const end = label.querySelector(".end"), begin = end && end.previousSibling;
      return { box: box(label), text: label.textContent, end: end ? box(end) : null,
        end_text: end && end.textContent, cut: begin && begin.scrollWidth > begin.clientWidth }; }),
    totals: all(".total").map(e => e.innerText.split(/\s{2,}|\n/).join(" ")),
    beyond: all("body *").filter(e => visible(e) && (box(e)[0] < -0.5 || box(e)[1] > root.clientWidth + 0.5))
      .map(e => e.outerHTML.slice(0, 200)),
    clipped: all(".total span").filter(e => e.scrollWidth > e.clientWidth).map(e => e.innerText),
    axes: all(".axis").length, legend: page.querySelector(".legend").innerText,
    sum: page.querySelector(".sum").innerText, ground: style(page.body).backgroundColor,
    ink: style(page.body).color, faint: style(page.querySelector(".legend")).color,
    width: root.scrollWidth, window: root.clientWidth,
    fetched: inner.performance.getEntriesByType("resource").map(e => e.name) };
  inner.scrollTo(0, root.scrollHeight / 2);
  seen.sticky = all(".axis").filter(e => Math.abs(box(e)[2]) < 30).length;
  inner.scrollTo(0, 0);
  document.getElementById("seen").textContent = JSON.stringify(seen);
});
</script>"#;

/// The height of the window, in pixels.
const HEIGHT: u32 = 700;

/// The measured page at this width, and its picture. A browser that received the focus too late shows no
/// details, so the measurement is repeated up to four times.
fn measured(page: &Page, dark: bool, width: u32) -> Value {
    let focused = |seen: &Value| list(&seen["bars"]).iter().all(|bar| bar["shown"] == "block");
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
    let scheme = if dark { "dark" } else { "light" };
    let inner = page.text.replace('&', "&amp;").replace('"', "&quot;");
    let document = format!(
        "<!doctype html><meta charset=utf-8><html style='color-scheme: {scheme}'><body style='margin: 0'>\
         <iframe width={width} height={HEIGHT} style='border: 0; display: block; color-scheme: {scheme}' \
         srcdoc=\"{inner}\"></iframe>{MEASURE}"
    );
    browse(page, &document, width, dark)
}

/// Opens a document, which leaves JSON in its element `seen`, and takes a picture of it.
fn browse(page: &Page, document: &str, width: u32, dark: bool) -> Value {
    let world = &page.world;
    fs::write(world.path("document.html"), document).expect("a document");
    let url = format!("file://{}", world.name("document.html"));
    let words = format!(
        "chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-quic --no-first-run
        --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars --dump-dom
        --blink-settings=preferredColorScheme={} --user-data-dir={} --window-size={width},{HEIGHT}
        --screenshot={}",
        u8::from(!dark),
        world.name("profile"),
        world.name("picture.png"),
    );
    let dom = world.bare(words.split_whitespace().chain([url.as_str()])).run().ended(End::Code(0)).stdout;
    let (_, after) = dom.split_once("<pre id=\"seen\" hidden=\"\">").expect("a measurement");
    let (json, _) = after.split_once("</pre>").expect("its end");
    let json =
        json.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").replace("&nbsp;", "\u{a0}");
    serde_json::from_str(&json).unwrap_or_else(|e| panic!("{e}: {json}"))
}

/// Reads the pixels of the picture: the colours of its margins, and in how many pixels the end of each bar
/// differs from the colour of the bar.
const PIXELS: &str = r#"<pre id="seen" hidden></pre><script>
addEventListener("load", () => {
  const image = document.querySelector("img"), canvas = document.createElement("canvas");
  const [width, height] = [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const data = context.getImageData(0, 0, width, height).data;
  const colour = (x, y) => `rgb(${[...data.slice(4 * (y * width + x), 4 * (y * width + x) + 3)].join(", ")})`;
  const margins = new Set();
  for (let y = 0; y < height; y++)
    for (let x = 0; x < 10; x++) margins.add(colour(x, y)).add(colour(width - 1 - x, y));
  const symbols = bars.filter(bar => bar.bar[3] < height).map(bar => {
    const [, right, top, bottom] = bar.bar.map(Math.round);
    let drawn = 0;
    for (let y = top + 2; y < bottom - 2; y++)
      for (let x = right - 11; x < right - 2; x++) drawn += colour(x, y) != bar.colour;
    return [bar.id, drawn];
  });
  document.getElementById("seen").textContent =
    JSON.stringify({ size: [width, height], margins: [...margins], symbols });
});
</script>"#;

/// What a person sees, in the picture of the page that was measured last.
fn assert_picture(page: &Page, seen: &Value, width: u32, dark: bool) {
    let world = &page.world;
    let picture = world.bare(["base64", "-w0", &world.name("picture.png")]).run().ended(End::Code(0)).stdout;
    let document = format!(
        "<!doctype html><meta charset=utf-8><img src=\"data:image/png;base64,{picture}\">\
         <script>const bars = {};</script>{PIXELS}",
        seen["bars"].to_string().replace('<', "\\u003c")
    );
    let pixels = browse(page, &document, width, dark);
    assert_eq!(pixels["size"], serde_json::json!([width, HEIGHT]));
    assert_eq!(pixels["margins"], serde_json::json!([seen["ground"]]), "nothing is in the margins");
    let symbols = list(&pixels["symbols"]);
    assert!(!symbols.is_empty());
    for symbol in symbols {
        assert!(number(&symbol[1]) >= 4.0, "a symbol is drawn: {symbol}");
    }
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
    let shown = list(&seen["bars"]);
    assert_eq!(shown.len(), page.rows.len(), "{seen:#}");
    for (id, classes, symbol) in [
        ("well", "bar success", "✓"),
        ("badly", "bar failure", "✗"),
        ("late", "bar cancelled", "⊘"),
        ("unseen", "bar success unknown", "✓"),
        ("stopped", "bar interrupted", "!"),
        ("going", "bar running", "►"),
    ] {
        let shown =
            shown.iter().find(|r| r["id"] == id).unwrap_or_else(|| panic!("no bar of {id}: {seen:#}"));
        assert_eq!((&shown["classes"], &shown["symbol"]), (&classes.into(), &symbol.into()), "{id}");
        let (bar, line) = (&shown["bar"], &shown["line"]);
        assert!(number(&bar[1]) - number(&bar[0]) >= 12.9, "{id} is visible: {shown:#}");
        let inside = number(&bar[0]) >= number(&line[0]) - 0.5 && number(&bar[1]) <= number(&line[1]) + 0.5;
        assert!(inside, "{id} is on the axis: {shown:#}");
        assert!(contrast(&shown["colour"], &seen["ground"]) >= 4.5, "{id}: {shown:#}");
        assert!(contrast(&shown["colour"], &shown["symbol_colour"]) >= 4.5, "{id}: {shown:#}");

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
    let going = shown.iter().find(|r| r["id"] == "going").expect("the running task");
    let short_of_now = number(&going["line"][1]) - number(&going["bar"][1]);
    assert!(short_of_now.abs() < 2.0, "a running bar extends to now: {going:#}");
    for part in ["2 success", "1 failure", "1 interrupted", "1 cancelled", "1 running", "end time unknown"] {
        assert!(text(&seen["legend"]).contains(part), "{part}: {seen:#}");
    }
    assert!(text(&seen["sum"]).starts_with("6 runs · "), "{seen:#}");
    assert!(text(&list(&seen["labels"])[0]["text"]).contains("sh"), "the agent: {seen:#}");
}

fn assert_no_overflow(seen: &Value) {
    assert!(number(&seen["width"]) <= number(&seen["window"]), "no horizontal overflow: {seen:#}");
    assert_eq!(seen["beyond"], serde_json::json!([]), "nothing is beyond the window");
    assert_eq!(seen["clipped"], serde_json::json!([]), "the totals are complete");
    let ticks = list(&seen["ticks"]);
    assert!(ticks.len() >= 2, "{seen:#}");
    for pair in ticks.windows(2) {
        assert!(number(&pair[0][1]) + 3.0 < number(&pair[1][0]), "overlapping times: {ticks:?}");
    }
    for bar in list(&seen["bars"]) {
        let tip = &bar["tip_box"];
        assert!(number(&tip[0]) >= 0.0 && number(&tip[1]) <= number(&seen["window"]), "{bar:#}");
        assert!(number(&tip[1]) - number(&tip[0]) >= 150.0, "the details are too narrow: {bar:#}");
    }
    for label in list(&seen["labels"]).iter().filter(|label| !label["end"].is_null()) {
        let (end, label_box) = (&label["end"], &label["box"]);
        let inside =
            number(&end[0]) >= number(&label_box[0]) && number(&end[1]) <= number(&label_box[1]) + 0.5;
        assert!(inside && number(&end[1]) > number(&end[0]), "the end of a key is visible: {label:#}");
    }
    assert!(contrast(&seen["faint"], &seen["ground"]) >= 4.5, "{seen:#}");
    assert!(contrast(&seen["ink"], &seen["ground"]) >= 7.0, "{seen:#}");
}

/// The page at the widths of a telephone, of a tablet and of a desktop.
fn assert_fits(page: &Page, dark: bool, also: impl Fn(&Value)) {
    for width in [360, 960, 1200] {
        let seen = measured(page, dark, width);
        assert_eq!(number(&seen["window"]), f64::from(width));
        assert_no_overflow(&seen);
        let ground = luminance(&seen["ground"]);
        assert!(if dark { ground < 0.1 } else { ground > 0.8 }, "{ground}");
        also(&seen);
        assert_picture(page, &seen, width, dark);
    }
}

#[test]
fn the_page_shows_every_task_in_light_mode_and_fetches_nothing() {
    let Some(page) = page("the_page_shows_every_task_in_light_mode_and_fetches_nothing") else { return };
    for outside in ["http:", "https:", "src=", "href=", "url(", "@import", "<script", "<link"] {
        assert!(!page.text.contains(outside), "{outside}: {}", page.text);
    }
    assert_fits(&page, false, |seen| {
        assert_eq!(seen["fetched"], serde_json::json!([]));
        assert_every_task_is_shown(&page, seen);
    });
}

#[test]
fn the_page_shows_every_task_in_dark_mode() {
    let Some(page) = page("the_page_shows_every_task_in_dark_mode") else { return };
    assert_fits(&page, true, |seen| assert_every_task_is_shown(&page, seen));
}

/// 500 keys, long, wide and hostile ones, one of which has runs all the time, and 30 runs without a key, of
/// which three run at any time.
const CROWD: &str = "WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n WHERE n < 630)
    INSERT INTO task_history (id, key, agent, status, started_at, finished_at, duration_ms, cost_usd)
    SELECT 'task-' || n,
        CASE WHEN n > 600 THEN NULL WHEN n > 500 THEN 'busy:7777'
            ELSE CASE n % 4 WHEN 0 THEN 'forgejo:organisation/a-very-long-repository-name'
                WHEN 1 THEN '修正する必要がある鍵の名前はとても長いです修正する必要'
                WHEN 2 THEN '<b onclick=\"{{LANES}}\">\u{5d0}\u{301}</b>' ELSE 'k' END || ':' || n END,
        CASE n % 3 WHEN 0 THEN 'reviewer-of-documentation-and-much-more' WHEN 1 THEN '审核人员' ELSE 'dev' END,
        CASE n % 4 WHEN 0 THEN 'failure' ELSE 'success' END,
        strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-' || (n % 100 * 10 + 40) || ' minutes'),
        strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-' || (n % 100 * 10 + 15) || ' minutes'), 1500000, 0.25
    FROM n;";

fn crowded(test: &str) -> Option<World> {
    let world = World::of_bookend(test)?;
    world.run(["true"]).run().ended(End::Code(0));
    world.write("DELETE FROM task_history");
    world.write(CROWD);
    Some(world)
}

#[test]
fn a_page_of_500_lanes_fits_a_telephone_and_a_desktop() {
    let test = "a_page_of_500_lanes_fits_a_telephone_and_a_desktop";
    if !possible(test, on_path("chromium"), "chromium") {
        return;
    }
    let Some(world) = crowded(test) else { return };
    let words = ["bookend", "timeline", "--limit", "1000", "--html", &world.name("page.html")];
    world.bare(words).run().ended(End::Code(0)).silent();
    let text = fs::read_to_string(world.path("page.html")).expect("the page");
    let page = Page { rows: world.rows(), world, text };
    assert_fits(&page, true, |seen| {
        let labels = list(&seen["labels"]);
        assert_eq!(
            (labels.len(), number(&seen["axes"])),
            (504, 26.0),
            "500 keys, one more, and three agents"
        );
        assert_eq!(number(&seen["sticky"]), 1.0, "an axis is visible in the middle of the page");
        assert!(labels.iter().any(|l| l["cut"] == true && text_ends(&l["end_text"], ":4")), "{labels:#?}");
        assert!(list(&seen["totals"]).iter().any(|t| t == "100 runs 1d 17h $25.00"), "{}", seen["totals"]);
        assert_eq!(seen["sum"], "630 runs · 10d 22h · $157.50");
    });
}

fn text_ends(value: &Value, end: &str) -> bool {
    text(value).ends_with(end)
}

/// The lines of `bookend timeline` on a terminal of this width that has no colours.
fn on_terminal(world: &World, columns: u16) -> Vec<String> {
    let mut pty = Pty::bash(world);
    pty.resize(columns, 24);
    pty.line("bookend timeline --limit 1000");
    let (printed, code) = pty.output();
    assert_eq!(code, 0, "{printed}");
    printed.lines().skip(1).map(|line| line.trim_end_matches('\r').to_owned()).collect()
}

#[test]
fn the_timeline_fits_80_and_200_columns() {
    let test = "the_timeline_fits_80_and_200_columns";
    if !possible(test, on_path("bash"), "bash") {
        return;
    }
    let Some(world) = crowded(test) else { return };
    for columns in [80, 200] {
        let lines = on_terminal(&world, columns);
        let is_title = |line: &&String| line.starts_with("KEY ");
        let is_wide = |c: &char| ('\u{3000}'..'\u{a000}').contains(c);
        // U+0301 takes no cell.
        let all = |line: &String| line.chars().filter(|c| *c != '\u{301}').count();
        let cells = |line: &String| all(line) + line.chars().filter(is_wide).count();
        for line in &lines {
            assert!(cells(line) <= usize::from(columns), "{} cells: {line}", cells(line));
        }
        assert_eq!(lines.iter().filter(is_title).count(), (lines.len() - 1).div_ceil(21), "{lines:#?}");
        assert!(lines.iter().filter(is_title).all(|line| line.contains("RUNS") && line.contains('│')));
        let of = |end: &str| {
            let is_it = |line: &&String| line.split("  ").next().is_some_and(|key| key.ends_with(end));
            lines.iter().find(is_it).unwrap_or_else(|| panic!("{end}: {lines:#?}"))
        };
        assert_eq!(
            of(":500").contains("forgejo:organisation/a-very-long-repository-name:500"),
            columns == 200
        );
        assert!(of(":500").starts_with("forgejo:") && of(":500").contains("$0.25"), "{}", of(":500"));
        assert!(of(":500").contains('✗') && of(":499").contains('✓'), "{} {}", of(":500"), of(":499"));
        let busy = of(":7777");
        assert!(busy.contains(" 100 ") && busy.contains("1d 17h") && busy.contains("$25.00"), "{busy}");
        let total = lines.iter().find(|line| line.starts_with("total ")).expect("the total");
        assert!(
            total.contains(" 630 ") && total.contains("10d 22h") && total.ends_with("$157.50"),
            "{total}"
        );
        let legend = lines.last().expect("a legend");
        assert!(legend.starts_with("✓ 473 success   ✗ 157 failure"), "{legend}");
    }
}

#[test]
fn runs_of_a_lane_that_overlap_are_on_separate_lines() {
    let Some(world) = World::of_bookend("runs_of_a_lane_that_overlap_are_on_separate_lines") else { return };
    let mut up = world.fifo("up");
    let script = format!("echo up >{}; exec sleep 1000", up.path());
    let running: Vec<_> = (0..3)
        .map(|_| {
            let run = world.run_sh(&script).start();
            up.line();
            run
        })
        .collect();
    world.run(["true"]).options(["--key", "newest"]).run().ended(End::Code(0));
    let text = world.bare(["bookend", "timeline"]).run().ended(End::Code(0)).silent().stdout;
    drop(running);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 7, "titles, one lane, one of three lines, total and legend: {text}");
    assert!(lines[1].starts_with("newest  true") && lines[1].ends_with('✓'), "{text}");
    assert!(lines[2].starts_with("-       sh"), "{text}");
    assert!(lines[2..5].iter().all(|line| line.ends_with('►')), "{text}");
    assert!(lines[3..5].iter().all(|line| line.starts_with("        ")), "{text}");
    assert_eq!(lines[6], "✓ 1 success   ► 3 running   times are UTC");
    let limited = world.bare(["bookend", "timeline", "--limit", "2"]).run().ended(End::Code(0)).stdout;
    assert!(limited.ends_with("\nthe newest 2 (--limit N)\n"), "{limited}");
}
