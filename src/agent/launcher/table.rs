//! The table of launchers: programs that start another one, with their options and where in their arguments
//! the other program is. bookend gives up at an option that a row does not list.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// What a launcher does with the program that it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchReach {
    /// Executes it once, as the same user on the same machine.
    Here,
    /// Executes it as another user or on another machine, which may store conversations elsewhere.
    Elsewhere,
    /// As `Elsewhere`, and a shell there parses the words again.
    ElsewhereByShell,
    /// Starts several programs, or one that its arguments do not show.
    Hidden,
}

/// How a launcher's arguments name the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramPosition {
    /// The program comes after this many operands.
    Program(usize),
    /// The program comes after `NAME=VALUE` words.
    Assignments,
    /// The program comes after `--`.
    Dashes,
}

/// One way of calling a launcher.
#[derive(Debug)]
pub struct Launcher {
    /// Its base names, separated by white space.
    pub names: &'static str,
    pub reach: LaunchReach,
    /// The options before `word`.
    pub global: LauncherOptions,
    /// The names of the subcommand, separated by white space; empty: none.
    pub word: &'static str,
    pub options: LauncherOptions,
    pub then: ProgramPosition,
}

/// The options of a launcher, in lists separated by white space.
#[derive(Debug)]
pub struct LauncherOptions {
    /// Options without a value.
    pub flags: &'static str,
    /// Options that take the next word as their value, unless a value is attached.
    pub one: &'static str,
    /// Options that take only an attached value.
    pub attached: &'static str,
}

const NONE: LauncherOptions = LauncherOptions { flags: "", one: "", attached: "" };

const fn here(names: &'static str, options: LauncherOptions, then: ProgramPosition) -> Launcher {
    Launcher { names, reach: LaunchReach::Here, global: NONE, word: "", options, then }
}

const fn hidden(names: &'static str) -> Launcher {
    Launcher {
        names,
        reach: LaunchReach::Hidden,
        global: NONE,
        word: "",
        options: NONE,
        then: ProgramPosition::Program(0),
    }
}

const fn flags(flags: &'static str, one: &'static str) -> LauncherOptions {
    LauncherOptions { flags, one, attached: "" }
}

const CONTAINER_GLOBAL: LauncherOptions =
    flags("-D --debug --tls --tlsverify", "-H --host -c --context --config -l --log-level");
const CONTAINER_EXEC: LauncherOptions = flags(
    "-i --interactive -t --tty --privileged",
    "-e --env --env-file -u --user -w --workdir --detach-keys",
);
const CONTAINER_RUN: LauncherOptions = flags(
    "-i --interactive -t --tty --init --no-healthcheck --oom-kill-disable --privileged -P --publish-all -q
     --quiet --read-only --rm --sig-proxy",
    "--add-host --annotation -a --attach --blkio-weight --cap-add --cap-drop --cgroup-parent --cgroupns
     --cidfile --cpu-period --cpu-quota -c --cpu-shares --cpus --cpuset-cpus --cpuset-mems --device --dns
     --dns-option --dns-search --domainname -e --env --env-file --expose --gpus --group-add -h --hostname --ip
     --ip6 --ipc --isolation --kernel-memory -l --label --label-file --link --log-driver --log-opt
     --mac-address -m --memory --memory-reservation --memory-swap --mount --name --network --net
     --network-alias --oom-score-adj --pid --pids-limit --platform -p --publish --pull --restart --runtime
     --security-opt --shm-size --stop-signal --stop-timeout --storage-opt --sysctl --tmpfs --ulimit --umask
     -u --user --userns --uts -v --volume --volume-driver --volumes-from -w --workdir",
);

/// The table. The first row with the name, and the subcommand if it has one, applies.
pub const LAUNCHERS: &[Launcher] = &[
    here(
        "env",
        LauncherOptions {
            flags: "-i --ignore-environment -v --debug --list-signal-handling",
            one: "-u --unset -C --chdir -a --argv0",
            attached: "--block-signal --default-signal --ignore-signal",
        },
        ProgramPosition::Assignments,
    ),
    here(
        "nice",
        LauncherOptions { flags: "", one: "-n --adjustment", attached: "-0 -1 -2 -3 -4 -5 -6 -7 -8 -9" },
        ProgramPosition::Program(0),
    ),
    here("ionice", flags("-t --ignore", "-c --class -n --classdata"), ProgramPosition::Program(0)),
    here(
        "chrt",
        flags(
            "-b --batch -d --deadline -e --ext -f --fifo -i --idle -o --other -r --rr -R --reset-on-fork -v
             --verbose",
            "-T --sched-runtime -P --sched-period -D --sched-deadline",
        ),
        ProgramPosition::Program(1),
    ),
    here("taskset", flags("-a --all-tasks -c --cpu-list", ""), ProgramPosition::Program(1)),
    here("nohup", NONE, ProgramPosition::Program(0)),
    here("setsid", flags("-c --ctty -w --wait", ""), ProgramPosition::Program(0)),
    here("stdbuf", flags("", "-i --input -o --output -e --error"), ProgramPosition::Program(0)),
    here(
        "time",
        flags("-v --verbose -p --portability -a --append -q --quiet", "-o --output -f --format"),
        ProgramPosition::Program(0),
    ),
    here(
        "timeout",
        flags("-f --foreground -p --preserve-status -v --verbose", "-k --kill-after -s --signal"),
        ProgramPosition::Program(1),
    ),
    here(
        "flock",
        flags(
            "-s --shared -x -e --exclusive -n --nb --nonblock -o --close -F --no-fork --verbose",
            "-w --wait --timeout -E --conflict-exit-code",
        ),
        ProgramPosition::Program(1),
    ),
    here(
        "node nodejs",
        LauncherOptions {
            flags: "--no-warnings --no-deprecation --trace-warnings --trace-deprecation --enable-source-maps
                    --preserve-symlinks --preserve-symlinks-main --expose-gc --use-system-ca",
            one: "-r --require --import -C --conditions --env-file --env-file-if-exists --disable-warning
                  --dns-result-order --unhandled-rejections --title",
            attached: "--max-old-space-size --max-semi-space-size --stack-size",
        },
        ProgramPosition::Program(0),
    ),
    here(
        "npx",
        flags(
            "-y --yes --no -q --quiet --silent --offline --prefer-offline --prefer-online --no-install
             --ignore-existing",
            "-p --package --cache --userconfig --registry --loglevel",
        ),
        ProgramPosition::Program(0),
    ),
    here("bunx", flags("--bun --no-install --verbose --silent", "-p --package"), ProgramPosition::Program(0)),
    Launcher {
        names: "bun",
        reach: LaunchReach::Here,
        global: NONE,
        word: "x",
        options: flags("--bun --no-install --verbose --silent", "-p --package"),
        then: ProgramPosition::Program(0),
    },
    Launcher {
        names: "pnpm",
        reach: LaunchReach::Here,
        global: flags("-s --silent", "-C --dir --loglevel --reporter"),
        word: "dlx",
        options: LauncherOptions {
            flags: "-s --silent",
            one: "--reporter --package",
            attached: "--allow-build",
        },
        then: ProgramPosition::Program(0),
    },
    Launcher {
        names: "mise",
        reach: LaunchReach::Here,
        global: flags("-q --quiet -v --verbose -y --yes --silent", "-C --cd -E --env -j --jobs"),
        word: "exec x",
        options: flags("--raw -q --quiet -v --verbose -y --yes --silent", "-C --cd -E --env -j --jobs"),
        then: ProgramPosition::Dashes,
    },
    Launcher {
        names: "direnv",
        reach: LaunchReach::Here,
        global: NONE,
        word: "exec",
        options: NONE,
        then: ProgramPosition::Program(1),
    },
    Launcher {
        names: "sudo sudo-rs",
        reach: LaunchReach::Elsewhere,
        global: NONE,
        word: "",
        options: LauncherOptions {
            flags: "-A --askpass -B --bell -E -H --set-home -k --reset-timestamp -n --non-interactive -N
                    --no-update -P --preserve-groups -S --stdin",
            one: "-C --close-from -D --chdir -g --group -h --host -p --prompt -R --chroot -r --role -t --type
                  -T --command-timeout -u --user",
            attached: "--preserve-env",
        },
        then: ProgramPosition::Assignments,
    },
    Launcher {
        names: "doas",
        reach: LaunchReach::Elsewhere,
        global: NONE,
        word: "",
        options: flags("-n", "-a -C -u"),
        then: ProgramPosition::Program(0),
    },
    Launcher {
        names: "docker podman nerdctl",
        reach: LaunchReach::Elsewhere,
        global: CONTAINER_GLOBAL,
        word: "run",
        options: CONTAINER_RUN,
        then: ProgramPosition::Program(1),
    },
    Launcher {
        names: "docker podman nerdctl",
        reach: LaunchReach::Elsewhere,
        global: CONTAINER_GLOBAL,
        word: "exec",
        options: CONTAINER_EXEC,
        then: ProgramPosition::Program(1),
    },
    Launcher {
        names: "ssh",
        reach: LaunchReach::ElsewhereByShell,
        global: NONE,
        word: "",
        options: flags(
            "-4 -6 -A -a -C -g -K -k -M -n -q -s -T -t -v -X -x -Y -y",
            "-B -b -c -D -E -e -F -I -i -J -L -l -m -o -P -p -R -S -W -w",
        ),
        then: ProgramPosition::Program(1),
    },
    hidden("sh bash dash zsh fish ksh mksh ash busybox csh tcsh nu pwsh"),
    hidden("xargs parallel script watch tmux screen expect unbuffer su runuser machinectl systemd-run"),
    hidden("find make just entr ts nix nix-shell devbox"),
];

impl Launcher {
    /// Whether this row applies to `program` with these arguments.
    pub fn calls(&self, program: &OsStr, args: &[OsString]) -> bool {
        let name = program.to_str().unwrap_or_default();
        has(self.names, name)
            && (self.word.is_empty() || self.reach == LaunchReach::Hidden || self.behind_word(args).is_some())
    }

    /// The index in `args` of the program that it starts; `None`: not known.
    pub fn program(&self, args: &[OsString]) -> Option<usize> {
        let at = if self.word.is_empty() { 0 } else { self.behind_word(args)? };
        let at = match self.then {
            ProgramPosition::Dashes => {
                args[at..].iter().position(|a| a == "--").filter(|_| self.options.skip(args, at).is_some())?
                    + at
                    + 1
            }
            ProgramPosition::Program(operands) => self.options.skip(args, at)? + operands,
            ProgramPosition::Assignments => {
                let at = self.options.skip(args, at)?;
                at + args[at..].iter().take_while(|a| a.as_bytes().contains(&b'=')).count()
            }
        };
        args.get(at).filter(|word| !word.is_empty() && word.as_bytes()[0] != b'-').map(|_| at)
    }

    fn behind_word(&self, args: &[OsString]) -> Option<usize> {
        let at = self.global.skip(args, 0)?;
        args.get(at)?.to_str().filter(|word| has(self.word, word)).map(|_| at + 1)
    }
}

impl LauncherOptions {
    /// The index after the options that begin at `at`; `None`: one of them is not in the table.
    fn skip(&self, args: &[OsString], mut at: usize) -> Option<usize> {
        while let Some(word) = args.get(at) {
            if word == "--" {
                return Some(at + 1);
            }
            if word.len() < 2 || word.as_bytes()[0] != b'-' {
                break;
            }
            at += self.words(word.to_str()?)?;
        }
        Some(at)
    }

    /// How many words an option takes, `word` included; `None`: it is not in the table.
    fn words(&self, word: &str) -> Option<usize> {
        if has(self.flags, word) || has(self.attached, word) {
            return Some(1);
        }
        if has(self.one, word) {
            return Some(2);
        }
        if let Some(long) = word.strip_prefix("--") {
            let (name, _) = long.split_once('=')?;
            let name = &word[..name.len() + 2];
            return (has(self.one, name) || has(self.attached, name)).then_some(1);
        }
        self.cluster(word)
    }

    /// As [`LauncherOptions::words`], for `-it`, `-uroot` and the like.
    fn cluster(&self, word: &str) -> Option<usize> {
        for (place, letter) in word.char_indices().skip(1) {
            let name = format!("-{letter}");
            let is_last = place + letter.len_utf8() == word.len();
            if has(self.attached, &name) {
                return Some(1);
            }
            if has(self.one, &name) {
                return Some(if is_last { 2 } else { 1 });
            }
            if !has(self.flags, &name) {
                return None;
            }
        }
        Some(1)
    }
}

/// Whether `word` is in a list separated by white space.
pub fn has(list: &str, word: &str) -> bool {
    list.split_ascii_whitespace().any(|w| w == word)
}
