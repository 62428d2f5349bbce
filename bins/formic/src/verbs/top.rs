//! `formic top`: what instances use and how they answer, now, again and again.

mod frame;
mod rows;
mod screen;

use std::io::IsTerminal;
use std::time::Duration;

use formic_api::control::v1 as pb;
use serde_json::{Value, json};

use self::frame::{Frame, Size};
use self::rows::{Row, rows};
use self::screen::{Key, Screen};
use crate::app::again::{self, Stopped};
use crate::app::{self, App};
use crate::cli::Top;
use crate::exit::{Failure, Outcome};
use crate::output;
use crate::signals::Ends;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);
/// The time between the two looks of `--once`, from which the use of the processor is made.
const ONCE: Duration = Duration::from_millis(500);

pub(crate) async fn run(args: Top) -> Outcome {
    let app = app::find(&args.listing.target).await?;
    if args.once || args.listing.json {
        let before = look(&app).await?;
        tokio::time::sleep(ONCE).await;
        let now = look(&app).await?;
        let mut rows = rows(&now.0, &now.1, Some(&before.1));
        rows::sort(&mut rows, args.sort);
        if args.listing.json {
            output::json(&to_json(&now.0, &now.1, &rows));
        } else {
            let width = output::limit().unwrap_or(usize::MAX);
            output::line(&frame::once(&now.0, &now.1, &rows, args.sort, width));
        }
        return Ok(());
    }
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(Failure::user("there is no terminal to draw on")
            .help("`formic top --once` prints it once, and `--json` for programs"));
    }
    interactive(&app, args).await
}

async fn look(app: &App) -> Outcome<(pb::StatusResponse, pb::MeasureResponse)> {
    let control = app.control();
    let status = control.status(pb::StatusRequest::default()).await?.into_message();
    let measures = control.measure(pb::MeasureRequest::default()).await?.into_message();
    Ok((status, measures))
}

async fn interactive(app: &App, args: Top) -> Outcome {
    let mut ends = Ends::listen()?;
    let mut sort = args.sort;
    let (mut offset, mut before, mut away) = (0, None, false);
    let stopped = tokio::select! {
        stopped = Stopped::listen(app) => stopped.heard(),
        () = ends.next() => return Ok(()),
    };
    tokio::pin!(stopped);
    let (mut status, mut measures) = look(app).await?;
    // From here on the terminal is another; dropping this puts it back, whatever happens.
    let mut screen = Screen::open().map_err(|error| Failure::user("cannot draw here").because(error))?;
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.tick().await;
    loop {
        let mut rows = rows(&status, &measures, before.as_ref());
        rows::sort(&mut rows, sort);
        let size = Size::of_terminal();
        let frame = Frame { status: &status, measures: &measures, rows: &rows, sort, size, away };
        offset = offset.min(frame.last_offset());
        screen.draw(&frame.lines(offset)).map_err(|error| Failure::user("cannot draw").because(error))?;
        // Each arm is cancel safe: a timer, a signal, a stream that is kept, a look that is begun anew, keys that stay in the terminal.
        tokio::select! {
            _ = tick.tick() => {
                match look(app).await {
                    Ok((status_now, measures_now)) => {
                        away = false;
                        status = status_now;
                        before = Some(std::mem::replace(&mut measures, measures_now));
                    }
                    // What a server runs goes on without it, and so does who looks on.
                    Err(failure) if !status.server.is_set() => return Err(failure),
                    Err(_) => away = true,
                }
            }
            () = ends.next() => return Ok(()),
            () = &mut stopped => {
                // Said where it stays.
                drop(screen);
                again::tell_stopped(app);
                return Ok(());
            }
            key = screen.key() => match key {
                Key::Quit => return Ok(()),
                Key::Sort => sort = rows::next(sort),
                Key::Up => offset = offset.saturating_sub(1),
                Key::Down => offset += 1,
                Key::Other => {}
            },
        }
    }
}

fn to_json(status: &pb::StatusResponse, measures: &pb::MeasureResponse, rows: &[Row]) -> Value {
    let row = |row: &Row| {
        json!({
            "service": row.service, "instance": row.instance, "slot": row.slot, "state": row.state,
            "cpu_percent": row.cpu, "memory_bytes": row.memory, "pids": row.pids, "open_files": row.files,
            "restarts": row.restarts, "oom_kills": row.oom_kills, "age_seconds": row.age.map(|age| age.as_secs()),
            "probe_seconds": row.probe.map(|probe| probe.as_secs_f64()), "probe_failures": row.probe_failures,
        })
    };
    let engine = measures.engine.as_option().cloned().unwrap_or_default();
    json!({
        "app": status.app, "index": status.index,
        "instances": rows.iter().map(row).collect::<Vec<_>>(),
        "engine": {
            "pid": engine.pid, "events": engine.events, "queue": engine.queue, "turns": engine.turns,
            "turns_seconds": Duration::from_nanos(engine.turns_nanos).as_secs_f64(),
            "writes": engine.writes, "writes_seconds": Duration::from_nanos(engine.writes_nanos).as_secs_f64(),
        },
    })
}
