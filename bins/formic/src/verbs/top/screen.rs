//! The terminal while `formic top` has it: keys at once and unseen, a screen that leaves the old one as it
//! was. Plain escape sequences: there is one picture to draw, and no library is as small as that.

use std::io::{self, Write};
use std::time::Duration;

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

/// The other screen, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// How often it is looked whether a key was pressed: quicker than people notice.
const LOOK: Duration = Duration::from_millis(40);

/// What a person asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Sort,
    Up,
    Down,
    Other,
}

/// The terminal. Dropping it puts everything back.
pub(super) struct Screen {
    before: Termios,
}

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let screen = Self { before };
        let mut now = screen.before.clone();
        // Signals stay: Ctrl-C is an end like `q`.
        now.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        // A read gives what there is, which may be nothing. The descriptor is the shell's too, so it is not
        // made to return at once by its own flags.
        now.special_codes[SpecialCodeIndex::VMIN] = 0;
        now.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Now, &now)?;
        write(ENTER)?;
        Ok(screen)
    }

    /// Draws these lines from the top.
    pub(super) fn draw(&mut self, lines: &[String]) -> io::Result<()> {
        let mut text = String::from("\x1b[H");
        for (at, line) in lines.iter().enumerate() {
            // The header of the table stands out.
            let (on, off) = if at == 2 { ("\x1b[7m", "\x1b[0m") } else { ("", "") };
            let end = if at + 1 < lines.len() { "\r\n" } else { "" };
            text.push_str(&format!("{on}{line}{off}\x1b[K{end}"));
        }
        text.push_str("\x1b[J");
        write(&text)
    }

    /// The next key. Cancel safe: what is not read stays in the terminal.
    pub(super) async fn key(&mut self) -> Key {
        loop {
            let mut bytes = [0; 16];
            match rustix::io::read(io::stdin(), &mut bytes) {
                // Looked at again and again, and not waited for: that would need a descriptor of its own.
                Ok(0) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {
                    tokio::time::sleep(LOOK).await;
                }
                Ok(read) => return key(&bytes[..read]),
                // The terminal is gone.
                Err(_) => return Key::Quit,
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = write(LEAVE);
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn key(bytes: &[u8]) -> Key {
    match bytes {
        b"q" | b"Q" | b"\x03" | b"\x04" => Key::Quit,
        b"s" | b"S" | b"\x1b[C" => Key::Sort,
        b"k" | b"\x1b[A" | b"\x1bOA" => Key::Up,
        b"j" | b"\x1b[B" | b"\x1bOB" => Key::Down,
        _ => Key::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_arrows() {
        let keys: [&[u8]; 6] = [b"q", b"s", b"\x1b[A", b"\x1bOB", b"x", b""];
        assert_eq!(keys.map(key), [Key::Quit, Key::Sort, Key::Up, Key::Down, Key::Other, Key::Other]);
    }
}
