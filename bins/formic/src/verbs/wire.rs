//! `formic wire decode`: what was said on a recorded multiplexed connection, a frame a line.

use std::fs::File;
use std::io::BufReader;

use formic_mux::capture::{Direction, Said, Unreadable, decode};
use serde_json::json;

use crate::cli::Wire;
use crate::exit::{Failure, Outcome};
use crate::output;

pub(crate) fn run(wire: &Wire) -> Outcome {
    let Wire::Decode { file, json } = wire;
    let shown = file.display();
    let open =
        File::open(file).map_err(|error| Failure::user(format!("cannot open {shown}")).because(error))?;
    let said = |said: &Said| output::line(&if *json { object(said) } else { said.to_string() });
    decode(BufReader::new(open), said).map_err(|error| {
        let failure = Failure::user(format!("{shown} {error}"));
        match error {
            Unreadable::Foreign => failure.help(
                "`formic call --capture FILE` makes one, and so does a client with the setting `client.capture`",
            ),
            Unreadable::Io(source) => failure.because(source),
            Unreadable::Spoken { fault, .. } => failure.because(fault),
            Unreadable::Cut | Unreadable::Damaged(_) => failure.help("what comes before is good"),
        }
    })
}

fn object(said: &Said) -> String {
    let Said { at, from, call, frame, bytes, text } = said;
    let from = if *from == Direction::Up { "client" } else { "server" };
    json!({ "at": at.as_secs_f64(), "from": from, "call": call, "frame": frame, "bytes": bytes, "text": text })
        .to_string()
}
