//! Links between documents lead to a file and to a heading that exist.

use std::path::{Component, Path, PathBuf};

use crate::harness::{document, documents, prose};

/// The targets of Markdown links and pictures: `](target)`.
fn targets(name: &str) -> Vec<String> {
    let prose = prose(name);
    let rest = prose.split("](").skip(1);
    rest.filter_map(|r| r.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

/// The anchor that GitHub gives a heading: lower case, blanks as `-`, no punctuation.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-' || *c == '_');
    kept.map(|c| if c == ' ' { '-' } else { c }).flat_map(char::to_lowercase).collect()
}

fn has_anchor(name: &str, wanted: &str) -> bool {
    let text = prose(name);
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| line.trim_start_matches('#').trim()).any(|heading| anchor(heading) == wanted)
}

/// `contrib/doc/../../README.md` is `README.md`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(plain.pop(), "{} leads out of the project", path.display()),
            part => plain.push(part),
        }
    }
    plain
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut seen = 0;
    for name in documents() {
        // The links of src/ARCHITECTURE.md are rustdoc's too: `cargo doc` checks those to items.
        let links = targets(&name).into_iter().filter(|t| !t.contains("://") && !t.contains("::"));
        for target in links {
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let folder = Path::new(&name).parent().expect("a folder");
            let path = if file.is_empty() { PathBuf::from(&name) } else { plain(&folder.join(file)) };
            let exists = Path::new(env!("CARGO_MANIFEST_DIR")).join(&path).exists();
            assert!(exists, "{name}: {target} leads nowhere");
            let page = path.to_str().expect("UTF-8");
            assert!(anchor.is_empty() || has_anchor(page, anchor), "{name}: {target}: no such heading");
            seen += 1;
        }
        assert!(!document(&name).is_empty(), "{name}");
    }
    assert!(seen > 20, "{seen} links");
}
