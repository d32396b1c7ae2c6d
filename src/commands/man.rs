//! `bookend man`: prints or writes the man pages.

use std::path::PathBuf;

use crate::error::{Error, Kind};
use crate::exit::Exit;
use crate::sys::stdout::print;

/// The options of `bookend man`.
pub struct ManOptions {
    /// Every page, by file name; bookend's own is the first.
    pub pages: Vec<(String, String)>,
    /// The command whose page is printed; `None`: bookend's own.
    pub command: Option<String>,
    /// Write all of them there instead.
    pub dir: Option<PathBuf>,
}

/// # Errors
/// When there is no such page, or it cannot be written.
pub fn man(options: &ManOptions) -> Result<Exit, Error> {
    if let Some(dir) = &options.dir {
        let written = std::fs::create_dir_all(dir).and_then(|()| {
            options.pages.iter().try_for_each(|(name, page)| std::fs::write(dir.join(name), page))
        });
        let failed = |e| Error::failed(format!("writing the man pages to {}", dir.display())).caused_by(e);
        return written.map(|()| Exit::Code(0)).map_err(failed);
    }
    let wanted = options.command.as_ref().map_or("bookend.1".to_owned(), |c| format!("bookend-{c}.1"));
    match options.pages.iter().find(|(name, _)| *name == wanted) {
        Some((_, page)) => print(page).map(|()| Exit::Code(0)),
        None => {
            let name = options.command.as_deref().unwrap_or_default();
            Err(Error::new(Kind::Usage, format!("there is no command {name}"))
                .hint("run `bookend --help` to list the commands"))
        }
    }
}
