//! `formic call --capture`: what is said on the connection of the call, in a file.

use std::io;
use std::path::Path;
use std::sync::Arc;

use formic_client::Recording;
use formic_mux::capture::Series;

use crate::exit::{Failure, Outcome};
use crate::output;

/// A call that streams for ever fills no disk.
const MOST: u64 = 64 << 20;

/// The record of one call.
pub(super) struct Record(Arc<Series>);

impl Record {
    /// Makes the file, before anything is called.
    pub(super) fn begin(file: &Path) -> Outcome<Self> {
        let series = Series::create(file, MOST).map_err(|error| {
            let failure = Failure::user(format!("cannot make {}", file.display()));
            match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    failure.help("there is one already, and no record is written over another")
                }
                _ => failure.because(error),
            }
        })?;
        Ok(Self(Arc::new(series)))
    }

    pub(super) fn recording(&self) -> Recording {
        Recording::Series(Arc::clone(&self.0))
    }

    /// Says where it is, or why there is none.
    pub(super) fn tell(&self, transport: Option<&str>) {
        self.0.close();
        let files = self.0.files();
        if transport == Some("http") || files.is_empty() {
            for (file, _) in &files {
                // An endpoint was greeted that does not speak the wire.
                let _ = std::fs::remove_file(file);
            }
            let why = match transport {
                Some(transport) => format!("the call went over {transport}"),
                None => "there was no connection".into(),
            };
            return output::talk(&format!("nothing is recorded: {why}"));
        }
        for (file, cut) in files {
            let full = || std::fs::metadata(&file).is_ok_and(|about| about.len() + (1 << 20) > MOST);
            let part = match cut {
                false => String::new(),
                true if full() => format!("the first {} MiB of ", MOST >> 20),
                // The disk was full, or another such thing.
                true => "the beginning of ".to_owned(),
            };
            let file = file.display();
            output::talk(&format!("recorded: {part}the connection, in {file} (`formic wire decode {file}`)"));
        }
    }
}
