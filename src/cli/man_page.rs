//! The man pages, generated from the command line.

use clap::{Arg, ArgAction, Command};
use clap_mangen::Man;
use roff::{Inline, Roff, bold, italic, roman};

use super::{examples, help};
use crate::exit;

/// The date of the last change.
const DATE: &str = "2026-11-30";

/// A page for each command, by file name. The first is that of bookend itself.
pub(super) fn pages() -> Vec<(String, String)> {
    let mut pages = Vec::new();
    collect(&shown(help::command(false).disable_help_subcommand(true)), "bookend", &mut pages);
    pages
}

fn collect(command: &Command, name: &str, pages: &mut Vec<(String, String)>) {
    pages.push((format!("{}.1", name.replace(' ', "-")), page(command, name)));
    for below in visible(command) {
        collect(below, &format!("{name} {}", below.get_name()), pages);
    }
}

/// Unhides every option: clap_mangen omits the help of options that `-h` hides.
fn shown(command: Command) -> Command {
    command.mut_args(|arg| arg.hide_short_help(false)).mut_subcommands(shown)
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help")
}

fn page(command: &Command, name: &str) -> String {
    let mut text = Vec::new();
    let title = name.replace(' ', "-");
    let man = Man::new(command.clone().display_name(&title));
    let mut head = Roff::default();
    synopsis(&mut head, command, name);
    let mut foot = Roff::default();
    commands(&mut foot, command, name);
    environment(&mut foot, command, name);
    exit_status(&mut foot, name);
    files(&mut foot, name);
    shown_examples(&mut foot, name);
    see_also(&mut foot, command, name);
    let written = man
        .render_title(&mut text)
        .and_then(|()| man.render_name_section(&mut text))
        .and_then(|()| head.to_writer(&mut text))
        .and_then(|()| man.render_description_section(&mut text))
        .and_then(|()| man.render_options_section(&mut text))
        .and_then(|()| foot.to_writer(&mut text));
    debug_assert!(written.is_ok(), "writing to memory does not fail");
    tidied(&String::from_utf8_lossy(&text), &title.to_uppercase())
}

/// Completes the title line, and replaces breaks and empty lines by vertical space.
fn tidied(page: &str, title: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    let heading = format!(".TH {title} 1 {DATE} \"bookend {}\" \"User Commands\"", env!("CARGO_PKG_VERSION"));
    for line in page.lines() {
        match (line, lines.last().copied()) {
            ("" | ".br", Some(".sp")) => {}
            ("", Some(".br")) => {
                lines.pop();
                lines.push(".sp");
            }
            ("", _) => lines.push(".sp"),
            // Words are not broken: an option or the name of a page stays searchable.
            (line, _) if line.starts_with(".TH ") => lines.extend([heading.as_str(), ".nh", ".ad l"]),
            (line, _) => lines.push(line),
        }
    }
    lines.join("\n") + "\n"
}

fn synopsis(roff: &mut Roff, command: &Command, name: &str) {
    roff.control("SH", ["SYNOPSIS"]);
    let mut line = vec![bold(name.to_owned())];
    let (places, options): (Vec<&Arg>, Vec<&Arg>) = command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str()))
        .partition(|arg| arg.is_positional());
    for option in options {
        line.push(roman(" ["));
        line.extend(option.get_short().map(|short| bold(format!("-{short}"))));
        line.extend(option.get_short().and(option.get_long()).map(|_| roman("|")));
        line.extend(option.get_long().map(|long| bold(format!("--{long}"))));
        line.extend(value(option).map(|value| italic(format!(" {value}"))));
        line.push(roman(if matches!(option.get_action(), ArgAction::Count) { "]..." } else { "]" }));
    }
    for place in places {
        let name = value(place).unwrap_or_default();
        let several = matches!(place.get_action(), ArgAction::Append) && !name.ends_with("...");
        let dots = if several { "..." } else { "" };
        line.push(roman(if place.is_required_set() { " " } else { " [" }));
        line.push(italic(name));
        line.push(roman(if place.is_required_set() { dots.to_owned() } else { format!("]{dots}") }));
    }
    if command.has_subcommands() {
        line.push(italic(" COMMAND"));
    }
    roff.text(line);
}

fn value(arg: &Arg) -> Option<String> {
    let takes = arg.is_positional() || arg.get_num_args().is_some_and(|n| n.takes_values());
    let names = arg.get_value_names().map(|names| names.join(" "));
    takes.then(|| names.unwrap_or_else(|| arg.get_id().as_str().to_uppercase()))
}

fn commands(roff: &mut Roff, command: &Command, name: &str) {
    if visible(command).next().is_none() {
        return;
    }
    roff.control("SH", ["COMMANDS"]);
    let about = |below: &Command| below.get_about().map(ToString::to_string).unwrap_or_default();
    let entry = |roff: &mut Roff, below: &Command| {
        item(roff, &format!("{} {}", name, below.get_name()), &about(below));
    };
    if name != "bookend" {
        visible(command).for_each(|below| entry(roff, below));
        return;
    }
    for (group, names) in help::GROUPS {
        roff.control("SS", [group]);
        names.iter().filter_map(|name| command.find_subcommand(name)).for_each(|below| entry(roff, below));
    }
}

fn item(roff: &mut Roff, name: &str, text: &str) {
    roff.control("TP", []);
    roff.text([bold(name.to_owned())]);
    roff.text([roman(text.to_owned())]);
}

/// Variables that every command reads.
const VARIABLES: [(&str, &str); 7] = [
    ("BOOKEND_LEDGER", "The ledger, where --ledger names none."),
    ("STATE_DIRECTORY", "Set by systemd: the ledger is bookend.db in it."),
    ("XDG_STATE_HOME", "The ledger is bookend/bookend.db in it; default ~/.local/state."),
    ("XDG_CONFIG_HOME", "Declarations of agents are bookend/agents/NAME.toml in it; default ~/.config."),
    (
        "BOOKEND_BUSY_TIMEOUT",
        "How long to wait for other writers of the ledger, such as 500ms or 2m; default 30s.",
    ),
    ("BOOKEND_ALLOW_SHARED_DIR", "1: others may write to the directories above the ledger's own."),
    ("BOOKEND_LOG", "Filter of the messages: a level, such as debug, or target=level pairs."),
];

/// Variables that say where the password of a fleet's database is.
const FLEET_VARIABLES: [(&str, &str); 3] = [
    ("PGPASSFILE", "In a fleet: the password file; default ~/.pgpass. PGPASSWORD is ignored."),
    ("PGSERVICEFILE", "In a fleet: the service file; default ~/.pg_service.conf."),
    ("CREDENTIALS_DIRECTORY", "Set by systemd: bookend-pgpass in it is a password file too."),
];

fn environment(roff: &mut Roff, command: &Command, name: &str) {
    roff.control("SH", ["ENVIRONMENT"]);
    for (option, variable) in
        command.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg.get_env()?)))
    {
        item(roff, &variable.to_string_lossy(), &format!("The value of --{option}."));
    }
    let fleet = FLEET_VARIABLES.iter().filter(|_| connects(name));
    VARIABLES.iter().chain(fleet).for_each(|(variable, text)| item(roff, variable, text));
}

/// Whether this is a command of which connecting to the database of a fleet is the purpose.
fn connects(name: &str) -> bool {
    name == "bookend monitor" || name.starts_with("bookend fleet")
}

fn exit_status(roff: &mut Roff, name: &str) {
    roff.control("SH", ["EXIT STATUS"]);
    for (code, text) in exit::codes_of(name) {
        item(roff, code, text);
    }
}

fn files(roff: &mut Roff, name: &str) {
    roff.control("SH", ["FILES"]);
    let fleet = [
        (
            "bookend.db.d/fleet.sock",
            "Beside a ledger of a fleet: the socket at which runs ask the monitor for keys.",
        ),
        ("~/.pgpass", "Passwords of PostgreSQL, for a fleet; mode 0600."),
    ];
    let own = [
        ("~/.local/state/bookend/bookend.db", "The default ledger, an SQLite database."),
        ("/var/lib/bookend/bookend.db", "The ledger of the system units, which --system names."),
        ("bookend.db.d/live", "Beside the ledger: a byte of it is locked for each running task."),
        ("bookend.db.d/spool/", "Beside the ledger: ends that the ledger could not take yet."),
    ];
    own.iter().chain(fleet.iter().filter(|_| connects(name))).for_each(|(file, text)| item(roff, file, text));
}

/// Not filled: each example is one line.
fn shown_examples(roff: &mut Roff, name: &str) {
    let lines = examples::of(name);
    if lines.is_empty() {
        return;
    }
    roff.control("SH", ["EXAMPLES"]);
    roff.control("nf", []);
    for line in lines {
        roff.text([roman((*line).to_owned())]);
    }
    roff.control("fi", []);
}

fn see_also(roff: &mut Roff, command: &Command, name: &str) {
    roff.control("SH", ["SEE ALSO"]);
    let above = name.rsplit_once(' ').map(|(above, _)| above.to_owned());
    let below = visible(command).map(|below| format!("{name} {}", below.get_name()));
    let mut line: Vec<Inline> = Vec::new();
    for page in above.into_iter().chain(below) {
        line.extend((!line.is_empty()).then(|| roman(", ")));
        line.extend([bold(page.replace(' ', "-")), roman("(1)")]);
    }
    roff.text(line);
}
