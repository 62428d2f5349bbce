//! The flags that every service takes. A parser of our own, as there are few and a service should not
//! pay for a command-line library that it may not use.

use serde_json::Value;

use crate::Error;
use crate::layers::{Layers, Source};
use crate::suggest::nearest;

/// What the flags asked for besides values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) explain: bool,
    pub(crate) help: bool,
}

/// Flags with a value, and the setting each one is.
const VALUES: [(&str, &str); 7] = [
    ("--listen", "listen"),
    ("--advertise", "advertise"),
    ("--daemon", "daemon"),
    ("--registry", "registry"),
    ("--log", "log"),
    ("--log-format", "log_format"),
    ("--timeout", "timeout"),
];

/// Lays the flags over the settings. Everything after `--` is the author's.
pub(crate) fn lay(
    layers: &mut Layers,
    mut args: impl Iterator<Item = String>,
    faults: &mut Vec<Error>,
) -> Asked {
    let mut asked = Asked::default();
    while let Some(arg) = args.next() {
        if arg == "--" {
            break;
        }
        if let Err(fault) = one(layers, &mut asked, arg, &mut args) {
            faults.push(fault);
        }
    }
    asked
}

fn one(
    layers: &mut Layers,
    asked: &mut Asked,
    arg: String,
    args: &mut impl Iterator<Item = String>,
) -> Result<(), Error> {
    {
        let (flag, inline) = match arg.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag.to_owned(), Some(value.to_owned())),
            _ => (arg, None),
        };
        let mut value = || inline.clone().or_else(|| args.next()).ok_or_else(|| Error::NoValue(flag.clone()));
        match flag.as_str() {
            "--explain" => asked.explain = true,
            "--help" | "-h" => asked.help = true,
            "--set" => {
                let pair = value()?;
                let (key, text) =
                    pair.split_once('=').ok_or_else(|| Error::NoValue(format!("--set {pair}")))?;
                layers.set(&format!("config.{key}"), words(text), &Source::Flag(format!("--set {key}")));
            }
            _ => match VALUES.iter().find(|(name, _)| *name == flag) {
                Some((name, key)) => {
                    let text = value()?;
                    layers.set(key, Value::String(text), &Source::Flag((*name).to_owned()));
                }
                None => return Err(unknown(flag)),
            },
        }
    }
    Ok(())
}

fn unknown(flag: String) -> Error {
    let names = VALUES.iter().map(|(name, _)| *name).chain(["--set", "--explain", "--help"]);
    let near = nearest(flag.trim_start_matches('-'), names.map(|name| name.trim_start_matches('-')));
    let hint = near.map(|near| format!(", did you mean --{near}?")).unwrap_or("; --help lists them".into());
    Error::Flag { flag, hint }
}

/// A value of the command line or the environment: a list or a table if it is one, else text, of which
/// the type that reads it says what it means.
pub(crate) fn words(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(value @ (Value::Array(_) | Value::Object(_))) => value,
        // In quotes it is text for certain, and the quotes are not part of it.
        Ok(Value::String(inner)) => Value::String(inner),
        _ => Value::String(text.into()),
    }
}

/// What a text means to a type that is no text.
pub(crate) fn scalar(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.into()))
}

/// What `--help` prints.
pub(crate) fn help(name: &str) -> String {
    format!(
        "{name}, a Formic service\n\n\
         Settings, each over the one before: defaults, code, formic.toml, environment, flags.\n\n\
         --listen ADDR        where to listen, 127.0.0.1:0 takes a free port   FORMIC_LISTEN\n\
         --advertise ADDR     the address that others shall call               FORMIC_ADVERTISE\n\
         --daemon unix:PATH   the daemon whose registry is used                FORMIC_DAEMON\n\
         --registry NAME      local, mdns, memory, or static:NAME=ADDR,…       FORMIC_REGISTRY\n\
         --log FILTER         a level, or a list such as info,order=debug      FORMIC_LOG\n\
         --log-format FORMAT  auto, pretty or json                             FORMIC_LOG_FORMAT\n\
         --timeout TIME       deadline of a call without one, such as 5s       FORMIC_TIMEOUT\n\
         --set KEY=VALUE      a setting of the service's own                   FORMIC_CONFIG__KEY\n\
         --explain            print every setting and who set it, and end\n\
         --help               this\n"
    )
}
