//! `formic wire decode`: what was said on a recorded multiplexed connection, a frame a line.

use std::fs::File;
use std::io::BufReader;

use formic_mux::capture::{Unreadable, decode};

use crate::cli::Wire;
use crate::exit::{Failure, Outcome};
use crate::output;

pub(crate) fn run(wire: &Wire) -> Outcome {
    let Wire::Decode { file } = wire;
    let shown = file.display();
    let open =
        File::open(file).map_err(|error| Failure::user(format!("cannot open {shown}")).because(error))?;
    decode(BufReader::new(open), output::line).map_err(|error| match error {
        Unreadable::Foreign => Failure::user(format!("{shown} {error}"))
            .help("a client records its connections with the setting `client.capture`, a folder"),
        Unreadable::Io(source) => Failure::user(format!("{shown} cannot be read")).because(source),
    })
}
