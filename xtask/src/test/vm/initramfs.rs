//! What the kernel unpacks and runs first: a shell, the modules that lead to the host's files, and the script.
//!
//! The format is `newc` of cpio, of which a few fields matter; it is written here, since the tool for it is rarely installed.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::parts::Parts;

const INIT: &str = include_str!("init.sh");
const FOLDERS: [&str; 9] = ["bin", "modules", "proc", "sys", "dev", "host", "own", "new", "lib"];

pub(super) fn write(path: &Path, parts: &Parts, script: &str) -> Result<()> {
    let file = fs::File::create(path).with_context(|| format!("write {}", path.display()))?;
    let mut archive = Archive { to: BufWriter::new(file), written: 0, entries: 0 };
    for folder in FOLDERS {
        archive.entry(folder, 0o040_755, &[])?;
    }
    archive.entry("bin/busybox", 0o100_755, &read(&parts.busybox)?)?;
    archive.entry("bin/sh", 0o120_777, b"busybox")?;
    let mut order = String::new();
    for module in &parts.modules {
        let name = module.file_name().and_then(|name| name.to_str()).context("a module has a name")?;
        archive.entry(&format!("modules/{name}"), 0o100_644, &read(module)?)?;
        order.push_str(name);
        order.push('\n');
    }
    archive.entry("modules/order", 0o100_644, order.as_bytes())?;
    archive.entry("tests.sh", 0o100_755, script.as_bytes())?;
    archive.entry("init", 0o100_755, INIT.as_bytes())?;
    archive.entry("TRAILER!!!", 0, &[])?;
    archive.to.flush().context("write the initramfs")
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

struct Archive<W> {
    to: W,
    written: usize,
    entries: u32,
}

impl<W: Write> Archive<W> {
    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.entries += 1;
        let size = u32::try_from(content.len()).context("a file of less than 4 GiB")?;
        // Number, mode, owner, group, links, time, size, four device numbers, length of the name, no checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, u32::try_from(name.len() + 1)?, 0];
        let mut head = String::from("070701");
        for field in fields {
            head.push_str(&format!("{field:08x}"));
        }
        head.push_str(name);
        head.push('\0');
        self.padded(head.as_bytes())?;
        self.padded(content)
    }

    /// Writes, and fills up to a multiple of four.
    fn padded(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes).context("write the initramfs")?;
        self.written += bytes.len();
        let fill = self.written.next_multiple_of(4) - self.written;
        self.to.write_all(&[0; 3][..fill]).context("write the initramfs")?;
        self.written += fill;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_entry_is_a_head_a_name_and_a_content_each_filled_up() {
        let mut archive = Archive { to: Vec::new(), written: 0, entries: 0 };
        archive.entry("init", 0o100_755, b"hello").unwrap();
        assert_eq!(archive.to.len(), 116 + 8, "110 of the head, 5 of the name, and 5 of content");
        assert!(archive.to.starts_with(b"07070100000001000081ed"));
        assert_eq!(&archive.to[110..124], b"init\0\0hello\0\0\0");
    }
}
