//! `bookend units`: prints or writes the systemd units, for a bookend that was installed without the package.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::exit::Exit;
use crate::log;
use crate::sys::stdout::print;
use crate::view;

/// The options of `bookend units`.
pub struct UnitsOptions {
    /// The units of a user manager instead of the system's.
    pub user: bool,
    /// Write them there instead.
    pub dir: Option<PathBuf>,
}

/// A unit by its file name.
type Unit = (&'static str, &'static str);

macro_rules! units {
    ($directory:literal: $($name:literal)*) => {
        [$(($name, include_str!(concat!("../../contrib/systemd/", $directory, $name)))),*]
    };
}

const SYSTEM: [Unit; 8] = units!("":
    "bookend@.service" "bookend@.timer" "bookend-recover.service" "bookend-report.service"
    "bookend-monitor.service" "bookend-monitor.socket" "bookend-prune.service" "bookend-prune.timer");
const USER: [Unit; 8] = units!("user/":
    "bookend@.service" "bookend@.timer" "bookend-recover.service" "bookend-report.service"
    "bookend-monitor.service" "bookend-monitor.socket" "bookend-prune.service" "bookend-prune.timer");

/// Where the package installs the program, as the units name it.
const PACKAGED: &str = "/usr/bin/bookend";
/// Directories that the system units hide (`ProtectHome=`), or that only their owner may enter.
const HIDDEN: [&str; 3] = ["/home", "/root", "/run/user"];

/// # Errors
/// When the program's own path is not known, or the units cannot be written.
pub fn units(options: &UnitsOptions) -> Result<Exit, Error> {
    let program = std::env::current_exe()
        .map_err(|e| Error::failed("reading /proc/self/exe, the path of bookend").caused_by(e))?;
    let units = if options.user { USER } else { SYSTEM };
    let units = units.map(|(name, text)| (name, with_program(text, &program)));
    if !options.user && HIDDEN.iter().any(|hidden| program.starts_with(hidden)) {
        warn_of_hidden(&program);
    }
    let Some(dir) = &options.dir else {
        let texts = units.map(|(name, text)| format!("# {name}\n{text}"));
        return print(&texts.join("\n")).map(|()| Exit::Code(0));
    };
    let written = std::fs::create_dir_all(dir)
        .and_then(|()| units.iter().try_for_each(|(name, text)| std::fs::write(dir.join(name), text)));
    let failed = |e| Error::failed(format!("writing the units to {}", dir.display())).caused_by(e);
    written.map(|()| Exit::Code(0)).map_err(failed)
}

/// The unit with the path of this program, and without the document that only the package installs.
fn with_program(text: &str, program: &Path) -> String {
    if program == Path::new(PACKAGED) {
        return text.to_owned();
    }
    let line = |line: &str| match line.split_once('=') {
        Some(("Documentation", _)) => String::new(),
        Some((name, command)) if name.starts_with("Exec") => {
            let bare = command.trim_start_matches('-');
            let prefix = &command[..command.len() - bare.len()];
            match bare.strip_prefix(PACKAGED).or_else(|| bare.strip_prefix("bookend")) {
                Some(rest) if rest.starts_with(' ') => format!("{name}={prefix}{}{rest}\n", word(program)),
                _ => format!("{line}\n"),
            }
        }
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// A path as a word of a command line: systemd.service(5), systemd.syntax(7). `%` begins a specifier.
fn word(program: &Path) -> String {
    let path = program.to_string_lossy().replace('%', "%%");
    match path.contains(|c: char| c.is_whitespace() || "\"'\\;".contains(c)) {
        true => format!("\"{}\"", path.replace('\\', r"\\").replace('"', r#"\""#)),
        false => path,
    }
}

fn warn_of_hidden(program: &Path) {
    let shown = program.display();
    log::warn(
        &format!("the system units cannot execute {shown}: they see no home directory"),
        &format!(
            "install it elsewhere and write the units with that copy: `sudo install {} /usr/local/bin/ && \
             /usr/local/bin/bookend units`",
            view::quoted(&program.to_string_lossy())
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_commands_of_bookend_get_the_path_of_the_program() {
        let unit = "Documentation=file:///x\n\
                    ExecStartPre=/bin/sh -c bookend\n\
                    ExecStart=/usr/bin/bookend run\n\
                    ExecStopPost=-bookend recover\n\
                    ExecStart=bookend-x y\n\
                    # bookend prune\n";
        let with = |path: &str| with_program(unit, Path::new(path));
        assert_eq!(with(PACKAGED), unit);
        assert_eq!(
            with("/opt/b"),
            "ExecStartPre=/bin/sh -c bookend\nExecStart=/opt/b run\nExecStopPost=-/opt/b recover\n\
             ExecStart=bookend-x y\n# bookend prune\n"
        );
        assert!(with("/a b/100%/\"c").contains("ExecStart=\"/a b/100%%/\\\"c\" run\n"));
    }
}
