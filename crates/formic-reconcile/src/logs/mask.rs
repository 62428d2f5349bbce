//! Takes the values of secrets out of what programs have written, where it is shown.
//!
//! The files are the programs' own and stay as they are. What is short may stand in any line by chance and is
//! left, and so is a value that the program has changed, to base64 for example: this helps against an accident,
//! not against a program.

use formic_state::State;

/// Shorter ones are left.
const SHORTEST: usize = 6;
/// The most values that are looked for: what a line costs is bounded.
const MOST: usize = 1024;

/// Texts that are not to be shown, and what stands in their place; the longest first, so that none is shown in part
/// because of another within it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mask(Vec<(Value, String)>);

/// Not printed by `{:?}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Value(String);

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Value")
    }
}

impl Mask {
    /// Of every version of every secret that is kept; an old one may be what runs with.
    pub(crate) fn of(state: &State) -> Result<Self, formic_state::Error> {
        let mut mask = Self::default();
        for info in state.secrets()? {
            for version in info.versions {
                if let Some((_, secret)) = state.secret(&info.name, Some(version))? {
                    mask.hide(&info.name, secret.expose());
                }
            }
        }
        mask.0.sort_by(|(a, _), (b, _)| (b.0.len(), &b.0).cmp(&(a.0.len(), &a.0)));
        mask.0.dedup_by(|(a, _), (b, _)| a == b);
        mask.0.truncate(MOST);
        Ok(mask)
    }

    /// A value of several lines is hidden line by line, as it is written.
    fn hide(&mut self, name: &str, value: &[u8]) {
        let Ok(text) = std::str::from_utf8(value) else { return };
        for line in text.lines().map(str::trim).filter(|line| line.len() >= SHORTEST) {
            let shown = format!("[secret {name}]");
            // As it stands in a line of JSON.
            let quoted = serde_json::Value::from(line).to_string();
            let quoted = quoted.get(1..quoted.len() - 1).unwrap_or_default();
            if quoted != line {
                self.0.push((Value(quoted.to_owned()), shown.clone()));
            }
            self.0.push((Value(line.to_owned()), shown));
        }
    }

    /// The line as it may be shown, by what is kept of secrets now.
    pub(crate) fn apply(&self, text: String) -> String {
        let mut text = text;
        for (value, shown) in &self.0 {
            if text.contains(&value.0) {
                text = text.replace(&value.0, shown);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(secrets: &[(&str, &str)]) -> Mask {
        let state = State::in_memory().expect("state");
        let mut write = state.write().expect("write");
        for (name, value) in secrets {
            write.set_secret(name, &formic_state::Secret::new(*value), 1).expect("set");
        }
        write.commit().expect("commit");
        Mask::of(&state).expect("read")
    }

    #[test]
    fn values_of_all_versions_are_hidden_and_short_ones_are_not() {
        let secrets =
            [("db", "hunter2"), ("db", "hunter2-new"), ("pin", "1234"), ("key", "-----BEGIN\nabc\"def\n")];
        let mask = mask(&secrets);
        let shown = |text: &str| mask.apply(text.to_owned());
        assert_eq!(shown("with hunter2 and hunter2-new."), "with [secret db] and [secret db].");
        assert_eq!(shown("pin 1234"), "pin 1234");
        assert_eq!(shown("-----BEGIN"), "[secret key]");
        assert_eq!(shown("abc\"def"), "[secret key]");
        assert_eq!(shown(r#"{"message":"abc\"def"}"#), r#"{"message":"[secret key]"}"#);
        assert!(!format!("{mask:?}").contains("hunter2"));
    }
}
