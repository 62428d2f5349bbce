//! The arguments of the verbs that change what is wanted, and of those that explain it.

use std::time::Duration;

use clap::Args;

use super::{Listing, duration};

#[derive(Args, Debug)]
pub(crate) struct Plan {
    /// Take what is built already
    #[arg(long)]
    pub(crate) no_build: bool,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// How the two differ that stop something.
const STOP: &str = "Named services stay stopped until `formic start` or the next apply; the others run on. Without names it is \
`formic down`: all that runs is drained and stopped, and `formic up` ends with it; a server goes on with nothing to run until \
`formic apply` or `formic rollback`.";
const DOWN: &str = "The same as `formic stop` without names. `formic stop SERVICE` stops single services, and the others run on; \
`formic server stop` ends a server, and what runs goes on.";

/// Whether a command waits for what it has set off.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Wait {
    /// Wait until what was changed runs and answers; fails if an update of it fails
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait, for example 30s or 5m
    #[arg(long, value_parser = duration, default_value = "5m", requires = "wait")]
    pub(crate) timeout: Duration,
}

#[derive(Args, Debug)]
pub(crate) struct Apply {
    /// Only if this is the index of the present state, as `formic plan` told it
    #[arg(long)]
    pub(crate) index: Option<u64>,
    /// Take what is built already
    #[arg(long)]
    pub(crate) no_build: bool,
    #[command(flatten)]
    pub(crate) wait: Wait,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Args, Debug)]
pub(crate) struct Scale {
    /// Services and how many instances of each: order=5
    #[arg(required = true, value_name = "SERVICE=N", value_parser = scale)]
    pub(crate) services: Vec<(String, u32)>,
    /// Only if this is the index of the present state
    #[arg(long)]
    pub(crate) index: Option<u64>,
    #[command(flatten)]
    pub(crate) wait: Wait,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Args, Debug)]
#[command(mut_arg("wait", |it| it.help("Wait until new instances answer and the old ones are gone; fails if a service fails")))]
pub(crate) struct Restart {
    /// Services
    #[arg(required = true, value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
    #[command(flatten)]
    pub(crate) wait: Wait,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Args, Debug)]
#[command(mut_arg("wait", |it| it.help("Wait until they have stopped; all that runs is always waited for")))]
#[command(after_help = STOP)]
pub(crate) struct Stop {
    /// Services [default: all that runs, as `formic down`]
    pub(crate) services: Vec<String>,
    /// Kill instead of drain
    #[arg(long, conflicts_with = "services")]
    pub(crate) now: bool,
    /// Only if this is the index of the present state
    #[arg(long, requires = "services")]
    pub(crate) index: Option<u64>,
    #[command(flatten)]
    pub(crate) wait: Wait,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Args, Debug)]
pub(crate) struct Start {
    /// Services
    #[arg(required = true, value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
    /// Only if this is the index of the present state
    #[arg(long)]
    pub(crate) index: Option<u64>,
    #[command(flatten)]
    pub(crate) wait: Wait,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Args, Debug)]
#[command(mut_arg("wait", |it| it.help("Wait until nothing of them runs any more")))]
pub(crate) struct Rm {
    /// Services
    #[arg(required = true, value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
    /// Only if this is the index of the present state
    #[arg(long)]
    pub(crate) index: Option<u64>,
    #[command(flatten)]
    pub(crate) wait: Wait,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Args, Debug)]
#[command(after_help = DOWN)]
pub(crate) struct Down {
    /// Kill instead of drain
    #[arg(long)]
    pub(crate) now: bool,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Args, Debug)]
pub(crate) struct Pause {
    /// A service of the application
    pub(crate) service: String,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Args, Debug)]
#[command(mut_arg("wait", |it| it.help("Wait until the run is over, and say how it ended; fails if the run fails")))]
pub(crate) struct Run {
    /// A service with a `cron`
    pub(crate) service: String,
    #[command(flatten)]
    pub(crate) wait: Wait,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Args, Debug)]
pub(crate) struct Runs {
    /// Cron jobs [default: all]
    #[arg(value_name = "SERVICE")]
    pub(crate) services: Vec<String>,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Args, Debug)]
pub(crate) struct Rollback {
    /// Index of the state that is to come back, as `formic history` lists it [default: the one before]
    pub(crate) to: Option<u64>,
    /// Only if this is the index of the present state
    #[arg(long)]
    pub(crate) index: Option<u64>,
    #[command(flatten)]
    pub(crate) wait: Wait,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Args, Debug)]
pub(crate) struct Events {
    /// Services [default: all]
    pub(crate) services: Vec<String>,
    /// Go on with what happens from now on
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Events from the end
    #[arg(short = 'n', long, default_value_t = 100)]
    pub(crate) tail: u32,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Args, Debug)]
pub(crate) struct Why {
    /// A service of the application
    pub(crate) service: String,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

#[derive(Args, Debug)]
pub(crate) struct Traffic {
    /// The service that is called
    pub(crate) service: String,
    /// Only what this caller sees: an instance, or all instances of a service
    #[arg(long, value_name = "CALLER")]
    pub(crate) from: Option<String>,
    /// Go on, every second
    #[arg(short, long)]
    pub(crate) watch: bool,
    /// End the ejection of this instance, named by its id or its address, with every caller
    #[arg(long, value_name = "INSTANCE", conflicts_with_all = ["watch", "from"])]
    pub(crate) reset: Option<String>,
    #[command(flatten)]
    pub(crate) listing: Listing,
}

/// Reads `order=5`.
fn scale(text: &str) -> Result<(String, u32), String> {
    let (name, number) = text.split_once('=').ok_or("expected SERVICE=N, such as order=5")?;
    let number = number.parse().map_err(|_| format!("{number:?} is no number of instances"))?;
    if name.is_empty() {
        Err("expected SERVICE=N, such as order=5".into())
    } else {
        Ok((name.into(), number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales() {
        assert_eq!(scale("order=5"), Ok(("order".into(), 5)));
        for bad in ["order", "=5", "order=", "order=-1", "order=x"] {
            assert!(scale(bad).is_err(), "{bad}");
        }
    }
}
