//! `formic exec`: a command where an instance runs. This process becomes the command, so terminal, input,
//! output and exit code are its own; and it ends with the instance, whose mark and cgroup it has.

use std::ffi::OsString;
use std::io::IsTerminal;

use formic_api::control::v1 as pb;
use formic_supervise::Place;

use crate::app::{self, App};
use crate::cli::Exec;
use crate::exit::{Failure, Outcome};

pub(crate) async fn run(args: Exec) -> Outcome {
    let app = app::find_here(&args.target, "`formic exec`").await?;
    let instance = pick(&app, &args.instance)?;
    if instance.pid == 0 {
        return Err(Failure::user(format!("{} is {} and has no process", instance.id, instance.state))
            .help("`formic status` shows which instances run"));
    }
    let Some((program, rest)) = args.command.split_first() else {
        return Err(Failure::user("no command is given"));
    };
    let id = formic_core::InstanceId::new(instance.id.as_str());
    let place = Place::of(instance.pid, &id)
        .map_err(|error| Failure::user(format!("cannot enter {}", instance.id)).because(error))?;
    // What a terminal is, only those know who sit at it.
    let terminal = if std::io::stdin().is_terminal() { &["TERM", "COLORTERM"][..] } else { &[] };
    let more: Vec<(OsString, OsString)> =
        terminal.iter().filter_map(|name| Some(((*name).into(), std::env::var_os(name)?))).collect();
    let error = place.become_program(program, rest, &more);
    Err(Failure::user(format!("cannot run {} in {}", program.display(), instance.id)).because(error))
}

/// `order` is its first instance that runs, `order/1` that of a slot; an id is itself.
fn pick<'a>(app: &'a App, wanted: &str) -> Outcome<&'a pb::InstanceStatus> {
    let all = || app.status.services.iter().flat_map(|service| &service.instances);
    if let Some(found) = all().find(|instance| instance.id == wanted) {
        return Ok(found);
    }
    let (name, slot) = match wanted.split_once('/') {
        Some((name, slot)) => {
            let number = slot.parse::<u32>();
            let bad = |_| Failure::user(format!("{slot:?} is no slot")).help("write it like order/1");
            (name, Some(number.map_err(bad)?))
        }
        None => (wanted, None),
    };
    app.knows(name)?;
    let own = || app.status.services.iter().filter(|service| service.name == name).flat_map(|s| &s.instances);
    match slot {
        Some(slot) => own().filter(|i| i.slot == slot).max_by_key(|i| i.pid > 0).ok_or_else(|| {
            let slots: Vec<String> = own().map(|i| format!("{name}/{}", i.slot)).collect();
            Failure::user(format!("{name} has no slot {slot}")).help(format!("it has {}", slots.join(", ")))
        }),
        None => own()
            .max_by_key(|i| (i.pid > 0, i.state == "ready", std::cmp::Reverse(i.slot)))
            .ok_or_else(|| Failure::user(format!("{name} has no instance")).help("`formic why` says why")),
    }
}
