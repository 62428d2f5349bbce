//! Data goes to standard output, talk to standard error; tables fit the terminal.

mod table;

use std::io::{self, IsTerminal, Write};

pub(crate) use table::{cut, table, width_of, wrap};

/// Writes data. A closed pipe (`| head`) ends the process quietly, as people expect, and a full disk with an error; not
/// for a command that has something to put in order before it ends, see [`try_line`].
#[expect(clippy::exit, reason = "there is nobody to write for any more")]
pub(crate) fn data(text: &str) {
    let Err(error) = write(text) else { return };
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    talk(&format!("error: cannot write to standard output: {error}"));
    std::process::exit(i32::from(crate::exit::USER));
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes one line of data.
pub(crate) fn line(text: &str) {
    data(&format!("{text}\n"));
}

/// Writes one line of data, and says whether there is somebody to read it.
pub(crate) fn try_line(text: &str) -> io::Result<()> {
    write(&format!("{text}\n"))
}

/// Writes a value as JSON, for eyes on a terminal and on one line elsewhere.
pub(crate) fn json(value: &serde_json::Value) {
    let text = if io::stdout().is_terminal() { format!("{value:#}") } else { value.to_string() };
    line(&text);
}

/// Talks to the person at the terminal, who may have closed it: what is going on goes on.
pub(crate) fn talk(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Passes on what another program says.
pub(crate) fn talk_raw(bytes: &[u8]) {
    let _ = io::stderr().lock().write_all(bytes);
}

/// Whether to use colours on standard error or output.
pub(crate) fn colour(stream_is_terminal: bool) -> bool {
    stream_is_terminal && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty())
}

/// The width of the terminal on standard output or error, 80 where there is none.
pub(crate) fn width() -> usize {
    let stdout = io::stdout();
    let stderr = io::stderr();
    let size = rustix::termios::tcgetwinsize(&stdout).or_else(|_| rustix::termios::tcgetwinsize(&stderr));
    size.ok().map(|size| usize::from(size.ws_col)).filter(|width| *width >= 20).unwrap_or(80)
}

/// A moment as `2026-11-21 07:31:31.250`, in UTC.
pub(crate) fn time(unix_ms: i64) -> String {
    let (days, millis) = (unix_ms.div_euclid(86_400_000), unix_ms.rem_euclid(86_400_000));
    // Days to a date of the Gregorian calendar, by years that begin in March: their leap day is the last.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let march = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{of_month:02} {hour:02}:{minute:02}:{second:02}.{millis:03}")
}

/// The same to the second, where more says nothing.
pub(crate) fn second(unix_ms: i64) -> String {
    let mut text = time(unix_ms);
    text.truncate("2026-11-21 07:31:31".len());
    text
}

/// A paragraph of data within the terminal's width, if there is a terminal.
pub(crate) fn paragraph(text: &str) {
    let lines: Vec<String> = text.split('\n').flat_map(|line| wrap(line, limit(), 0)).collect();
    line(&lines.join("\n"));
}

/// The limit for a table on standard output: its terminal's width; none for a pipe.
pub(crate) fn limit() -> Option<usize> {
    io::stdout().is_terminal().then(width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        assert_eq!(time(0), "1970-01-01 00:00:00.000");
        assert_eq!(second(999), "1970-01-01 00:00:00");
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00:00.000");
        assert_eq!(time(1_795_246_235_211), "2026-11-21 07:30:35.211");
        assert_eq!(time(4_107_542_399_999), "2100-02-28 23:59:59.999");
    }
}
