//! A small file system of its own, for what happens when it is full.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::Command;

use super::{World, is_root, on_path, possible};

/// Unmounted when it is dropped.
pub struct Tmpfs(pub PathBuf);

impl Tmpfs {
    /// `None`, said on stderr, where it cannot be mounted.
    pub fn mount(world: &World, test: &str, name: &str, size: &str) -> Option<Tmpfs> {
        if !possible(test, is_root() && on_path("mount"), "root, to mount a small file system") {
            return None;
        }
        let path = world.path(name);
        fs::create_dir(&path).expect("a directory");
        let options = format!("size={size},mode=700");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path).status();
        assert!(mounted.is_ok_and(|s| s.success()), "mounting {}", path.display());
        Some(Tmpfs(path))
    }

    /// Takes as much as there is, to the last page, with the file `filler`.
    pub fn fill(&self) {
        let file = fs::File::options().create(true).append(true).open(self.filler());
        let mut file = file.expect("the filler");
        loop {
            match file.write_all(&[0; 1 << 20]) {
                Ok(()) => {}
                Err(e) => return assert_eq!(e.kind(), ErrorKind::StorageFull),
            }
        }
    }

    /// Makes room again.
    pub fn clear(&self) {
        fs::remove_file(self.filler()).expect("room again");
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
