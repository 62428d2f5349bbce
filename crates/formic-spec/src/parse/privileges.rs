//! `user`, `group`, `no_new_privileges` and `ulimits`. Whether there is such a user is the machine's to say, later.

use super::section::{Notes, Section};
use crate::fault::{FaultKind, quote};
use crate::privileges::{Privileges, Ulimits};

/// What the longest name of a user may have; a line of `/etc/passwd` ends at colons.
const LONGEST: usize = 255;

pub(super) fn read(section: &mut Section<'_, '_>, notes: &mut Notes<'_>) -> Privileges {
    let user = read_name("user", section, notes);
    let group = read_name("group", section, notes);
    if let (None, Some(_), false, Some((_, value))) =
        (&user, &group, section.has("user"), section.get("group"))
    {
        let message = "`group` without a `user`".to_owned();
        let help = Some("say whose group it is to be: add `user = \"…\"`".to_owned());
        notes.push(&value.span(), FaultKind::Conflict, &section.path_of("group"), message, help);
    }
    let no_new_privileges = section.boolean("no_new_privileges", notes).unwrap_or(true);
    let ulimits = read_ulimits(section, notes);
    Privileges { user, group, no_new_privileges, ulimits }
}

fn read_name(key: &'static str, section: &mut Section<'_, '_>, notes: &mut Notes<'_>) -> Option<String> {
    let (name, span) = section.string(key, notes)?;
    let is_one = (1..=LONGEST).contains(&name.len())
        && !name.contains(|c: char| c.is_control() || c.is_whitespace() || matches!(c, ':' | '/'));
    if !is_one {
        let message = format!("{} cannot be the name of a {key}", quote(&name));
        notes.invalid(section, key, &span, message, "a name or a number that the machine knows");
    }
    Some(name)
}

fn read_ulimits(section: &mut Section<'_, '_>, notes: &mut Notes<'_>) -> Ulimits {
    let Some(mut inner) = section.section("ulimits", notes) else { return Ulimits::default() };
    // With fewer files no program gets as far as to say so.
    let nofile = inner.integer("nofile", 16..(1 << 30) + 1, notes).map(|(number, _)| number);
    let nproc = inner.integer("nproc", 1..(1 << 22) + 1, notes).map(|(number, _)| number);
    let core = inner.unit("core", "a size such as \"64MiB\"", notes);
    inner.finish(notes);
    Ulimits { nofile, nproc, core }
}
