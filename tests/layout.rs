//! The house is in order.

use std::fs;
use std::path::Path;

#[test]
fn every_file_of_tests_is_a_module_of_the_one_binary() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let main = fs::read_to_string(tests.join("main.rs")).expect("tests/main.rs");
    for entry in fs::read_dir(&tests).expect("tests/").flatten() {
        let path = entry.path();
        let is_rust = path.extension().is_some_and(|e| e == "rs") || path.join("mod.rs").exists();
        let name = path
            .file_stem()
            .and_then(|s| s.to_str())
            .expect("a name")
            .to_owned();
        if is_rust && name != "main" {
            assert!(
                main.lines().any(|l| l == format!("mod {name};")),
                "tests/{name}: its tests never run; add `mod {name};` to tests/main.rs"
            );
        }
    }
}
