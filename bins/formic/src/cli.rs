//! The command line as data.

mod look;
mod operate;
mod secret;
mod server;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgMatches, Args, Parser, Subcommand};
use formic_spec::HumanDuration;

pub(crate) use look::{Exec, Metrics, Sort, Top};
pub(crate) use operate::{
    Apply, Down, Events, Pause, Plan, Restart, Rm, Rollback, Run, Runs, Scale, Start, Stop, Traffic, Wait,
    Why,
};
pub(crate) use secret::Secret;
pub(crate) use server::{Detached, Doors, Install, Release, Server, ServerVerb, Upgrade};

/// Microservices: write them, run them, call them.
#[derive(Debug, Parser)]
#[command(name = "formic", version, about = "Microservices: write them, run them, call them", after_help = crate::exit::HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Which application a command is about.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Target {
    /// Name or folder of the running application [default: the one of this folder or above; where there is none, the only one, to look at]
    #[arg(long, value_name = "APP")]
    pub(crate) app: Option<String>,
    #[command(flatten)]
    pub(crate) remote: Remote,
}

/// The part of the help that has the flags of [`Remote`].
const BY_TCP: &str = "By TCP";

/// The server of another machine, or of this one by a port.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = BY_TCP)]
pub(crate) struct Remote {
    /// A server's API: https://host:port, or http://127.0.0.1:port
    #[arg(long, value_name = "URL", env = "FORMIC_SERVER")]
    pub(crate) server: Option<String>,
    /// A file with the token, of mode 0600
    #[arg(long, value_name = "FILE", env = "FORMIC_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The authority of the server's certificate
    #[arg(long, value_name = "FILE", env = "FORMIC_TLS_CA")]
    pub(crate) tls_ca: Option<PathBuf>,
    /// A certificate of one's own, for a server that asks for one
    #[arg(long, value_name = "FILE", env = "FORMIC_TLS_CERT")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its private key
    #[arg(long, value_name = "FILE", env = "FORMIC_TLS_KEY")]
    pub(crate) tls_key: Option<PathBuf>,
}

/// For a verb that needs what is on the server's machine: the flags are read, so that whoever gives them is told, and
/// not offered.
pub(crate) fn unoffered(flag: Arg) -> Arg {
    let of_tcp = flag.get_help_heading() == Some(BY_TCP);
    if of_tcp { flag.hide(true) } else { flag }
}

impl Remote {
    /// The server, if one is named; an empty name is none.
    pub(crate) fn url(&self) -> Option<&str> {
        self.server.as_deref().filter(|url| !url.is_empty())
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Build and run an application, in the foreground, until Ctrl-C
    Up(Up),
    /// Manage an application for as long as the machine runs; it goes on without the server, too
    Server(Server),
    /// Show the running application: services, instances, states
    Status(Listing),
    /// List the services that can be called
    Services(Listing),
    /// Show a service: its methods, messages and instances
    Describe(Describe),
    /// Call a method with JSON
    Call(Call),
    /// Show what services write to standard output and error
    Logs(Logs),
    /// Stop services until they are started again; without names all that runs, as `down` does
    Stop(Stop),
    /// Start services that were stopped, with as many instances as they had
    Start(Start),
    /// Take services out of what is wanted; logs and data stay
    Rm(Rm),
    /// Stop all that runs of the application, and `up` with it; a server goes on
    Down(Down),
    /// Show what an apply of the manifest would change and do
    Plan(Plan),
    /// Make the running application what the manifest says now
    Apply(Apply),
    /// Change how many instances run, until the next apply
    Scale(Scale),
    /// Replace the instances of services by new ones
    Restart(Restart),
    /// Let the update of a service stand still
    Pause(Pause),
    /// Let the update of a service go on
    Resume(Pause),
    /// Run a cron job now, beside its schedule
    Run(Run),
    /// List the runs of cron jobs, and what came of them
    Runs(Runs),
    /// Bring an earlier desired state back
    Rollback(Rollback),
    /// List the desired states that were
    History(Listing),
    /// Show what was decided and what happened, with the causes
    Events(Events),
    /// Say why a service is as it is
    Why(Why),
    /// Watch what instances use and how they answer
    Top(Top),
    /// Print the metrics of the engine and its instances, as Prometheus reads them
    Metrics(Metrics),
    /// Run a command where an instance runs: its environment, directory and cgroup
    Exec(Exec),
    /// Give up an instance that is quarantined, so that its place is filled again
    Release(Release),
    /// Show how calls to a service are spread, as its callers see it
    Traffic(Traffic),
    /// Make a new service that compiles, passes its test and runs
    New(New),
    /// Set, list and remove the secrets of an application
    #[command(subcommand)]
    Secret(Secret),
    /// Check a manifest and show what would run
    Check(Check),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the names of the services; the completions ask for them
    #[command(hide = true)]
    Names(Target),
    /// Look at the multiplexed wire
    #[command(subcommand)]
    Wire(Wire),
    /// Run a gateway; the engine starts it, with its settings in the environment
    #[command(hide = true)]
    Gateway,
    /// Run a proxy of TCP; the engine starts it, with its settings in the environment
    #[command(hide = true)]
    Proxy,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Wire {
    /// Print the frames of a recorded connection
    Decode {
        /// What `formic call --capture` wrote, or a client into the folder of its setting `client.capture`
        file: PathBuf,
        /// Print each frame as JSON, one a line
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Up {
    /// Folder with a formic.toml, or the file itself
    #[arg(default_value = ".")]
    pub(crate) path: PathBuf,
    /// Run what is built already
    #[arg(long)]
    pub(crate) no_build: bool,
    /// Build with the dev profile [default: the profile that this binary was built with]
    #[arg(long, conflicts_with = "release")]
    pub(crate) debug: bool,
    /// Build with the release profile
    #[arg(long)]
    pub(crate) release: bool,
    /// Build and roll a service when its sources are saved
    #[arg(long, conflicts_with = "no_build")]
    pub(crate) watch: bool,
    /// Answer Prometheus at this address too, such as 127.0.0.1:9090; `formic metrics` needs none
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Option<std::net::SocketAddr>,
    /// Do not stream the logs of the services
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Print states as one JSON object a line instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Listing {
    /// Print JSON
    // Before the target, whose last arguments begin a part of the help of their own.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Args, Debug)]
#[command(mut_args(unoffered))]
pub(crate) struct Describe {
    /// A service of the application, or package.Service
    pub(crate) service: String,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Args, Debug)]
#[command(mut_args(unoffered))]
pub(crate) struct Call {
    /// package.Service/Method
    pub(crate) method: String,
    /// The request as JSON; several values for a method that takes a stream; `-` reads standard input
    pub(crate) data: Vec<String>,
    /// Metadata to send, `name: value`; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub(crate) headers: Vec<String>,
    /// How long to wait, for example 500ms, 5s or 1m
    #[arg(long, value_parser = duration, default_value = "10s")]
    pub(crate) timeout: Duration,
    /// Call this address instead of a service of a running application
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "app")]
    pub(crate) address: Option<String>,
    /// Print each message on one line, and errors as JSON too
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the metadata of the response, and what the call travelled over, to standard error
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Record what is said on the multiplexed wire, secrets included, in a new file for `formic wire decode`
    #[arg(long, value_name = "FILE")]
    pub(crate) capture: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Args, Debug)]
pub(crate) struct Logs {
    /// Services [default: all]
    pub(crate) services: Vec<String>,
    /// Go on with what is written from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Lines from the end; 0 is all that is kept [default: 100, with --since all]
    #[arg(short = 'n', long)]
    pub(crate) tail: Option<u32>,
    /// Only what was written within this time, such as 10m or 1h30m
    #[arg(long, value_name = "DURATION")]
    pub(crate) since: Option<HumanDuration>,
    /// Only of this instance, as `formic status --json` names it
    #[arg(long, value_name = "ID", conflicts_with = "previous")]
    pub(crate) instance: Option<String>,
    /// Only of the last instance of each service that does not run any more
    #[arg(long, conflicts_with = "follow")]
    pub(crate) previous: bool,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Args, Debug)]
pub(crate) struct New {
    /// Name of the service and of the folder to make: a-z, 0-9 and -
    pub(crate) name: String,
    /// Folder to make it in
    #[arg(long, default_value = ".")]
    pub(crate) path: PathBuf,
    /// Folder with the source of Formic that the service shall use [default: the one that built this binary, if it is there]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) formic: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct Check {
    /// Folder with a formic.toml, or the file itself
    #[arg(default_value = ".")]
    pub(crate) path: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Whether the verb that was found is to speak to programs; that is the flag of the same name wherever there is one.
pub(crate) fn wants_json(mut found: &ArgMatches) -> bool {
    while let Some((_, inner)) = found.subcommand() {
        found = inner;
    }
    found.try_get_one::<bool>("json").ok().flatten().copied().unwrap_or_default()
}

/// The same of a command line that cannot be read.
pub(crate) fn asks_for_json(args: impl IntoIterator<Item = OsString>) -> bool {
    args.into_iter().take_while(|arg| arg != "--").any(|arg| arg == "--json")
}

/// Reads `500ms`, `5s`, `1.5s`, `2m`, `1h`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("expected a number and a unit: 500ms, 5s, 2m or 1h".into()),
    };
    let number: f64 = number.parse().map_err(|_| "expected a number and a unit, such as 5s".to_owned())?;
    let seconds = number * scale;
    if !(0.001..=86_400.0).contains(&seconds) {
        return Err("expected 1ms to 24h".into());
    }
    Ok(Duration::from_secs_f64(seconds))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_flag_for_programs_is_found_by_one_name() {
        let wants = |line: &str| wants_json(&Cli::command().try_get_matches_from(line.split(' ')).unwrap());
        for line in [
            "formic status --json",
            "formic call a.B/C --json",
            "formic check --json",
            "formic up --json",
            "formic secret set a --json",
            "formic server stop --json",
        ] {
            assert!(wants(line), "{line}");
        }
        for line in ["formic status", "formic exec a cat --json", "formic completions bash"] {
            assert!(!wants(line), "{line}");
        }
        let args = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(
            asks_for_json(args("formic statsu --json")) && !asks_for_json(args("formic exec a -- x --json"))
        );
    }

    /// What a verb says of itself, in one line: where it is broken is the terminal's.
    fn help(verb: &str) -> String {
        let line = format!("formic {verb} --help");
        let help = Cli::command().try_get_matches_from(line.split(' ')).unwrap_err().to_string();
        help.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_flags_of_tcp_stand_by_themselves_and_where_they_are_of_use() {
        fn look(verb: &clap::Command) {
            let of_tcp = verb.get_arguments().filter(|it| it.get_help_heading() == Some(BY_TCP));
            let ids: Vec<&str> = of_tcp.map(|it| it.get_id().as_str()).collect();
            let all = ["server", "token_file", "tls_ca", "tls_cert", "tls_key"];
            assert!(ids.is_empty() || ids == all, "{}: {ids:?}", verb.get_name());
            verb.get_subcommands().for_each(look);
        }
        look(&Cli::command());
        for verb in ["exec", "call", "describe", "server stop", "server upgrade"] {
            assert!(!help(verb).contains("--token-file") && !help(verb).contains(BY_TCP), "{}", help(verb));
        }
        assert!(help("status").contains("By TCP: --server <URL>"), "{}", help("status"));
        let exec = help("exec");
        assert!(exec.contains("Arguments: <SERVICE[/SLOT]> A service"), "{exec}");
        // Who gives one all the same is told, and not that there is no such flag.
        let line = "formic exec --server http://127.0.0.1:1 order true";
        Cli::command().try_get_matches_from(line.split(' ')).unwrap();
    }

    #[test]
    fn waits_and_stops_say_what_they_do() {
        for (verb, text) in [
            ("apply", "Wait until what was changed runs and answers"),
            ("stop", "Wait until they have stopped"),
            ("rm", "Wait until nothing of them runs any more"),
            ("run", "Wait until the run is over"),
            ("restart", "Wait until new instances answer and the old ones are gone"),
            ("stop", "Without names it is `formic down`"),
            ("down", "The same as `formic stop` without names"),
        ] {
            assert!(help(verb).contains(text), "{}", help(verb));
        }
    }

    #[test]
    fn durations() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        for bad in ["", "5", "s", "-1s", "1d", "1e9h", "0s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
