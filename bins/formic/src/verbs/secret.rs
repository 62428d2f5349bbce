//! `formic secret`: sets, lists and removes the secrets of an application, whether it runs or not. A value is read
//! from standard input or a file, never from the command line, and is never printed.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use formic_api::control::v1 as pb;
use serde_json::json;

use crate::app::{self, App};
use crate::cli::{Secret, Target};
use crate::engine::control::secrets;
use crate::engine::state::State;
use crate::engine::{manifest, vault};
use crate::exit::{Failure, Outcome};
use crate::output;

/// Where the secrets are: with the engine, or, while none runs, in its state.
enum Store {
    Engine(Box<App>),
    Folder(formic_state::State),
}

pub(crate) async fn run(args: Secret) -> Outcome {
    match args {
        Secret::Set { name, file, listing } => {
            // Before anybody is waited for.
            formic_state::check_secret_name(&name).map_err(|error| Failure::user(error.to_string()))?;
            let value = read(file.as_deref())?;
            let (version, used_by) = match store(&listing.target).await? {
                Store::Engine(app) => {
                    let request = pb::SetSecretRequest { name: name.clone(), value, ..Default::default() };
                    let response = app.secret().set(request).await?.into_message();
                    (response.version, response.used_by)
                }
                Store::Folder(state) => (secrets::set(&state, &name, value)?, Vec::new()),
            };
            if listing.json {
                output::json(&json!({ "name": name, "version": version, "used_by": used_by }));
            } else {
                output::talk(&format!("{name} has version {version} now"));
                if !used_by.is_empty() {
                    output::talk(&format!("{} has an older one until `formic apply`", used_by.join(", ")));
                }
            }
        }
        Secret::List(listing) => {
            let secrets = match store(&listing.target).await? {
                Store::Engine(app) => {
                    app.secret().list(pb::ListSecretsRequest::default()).await?.into_message().secrets
                }
                Store::Folder(state) => secrets::list(&state)?,
            };
            show(&secrets, listing.json);
        }
        Secret::Rm { name, listing } => {
            match store(&listing.target).await? {
                Store::Engine(app) => {
                    let request = pb::RemoveSecretRequest { name: name.clone(), ..Default::default() };
                    let _ = app.secret().remove(request).await?;
                }
                Store::Folder(state) => secrets::remove(&state, &name)?,
            }
            if listing.json {
                output::json(&json!({ "name": name, "removed": true }));
            } else {
                output::talk(&format!("{name} is removed with all its versions"));
            }
        }
    }
    Ok(())
}

fn show(secrets: &[pb::SecretStatus], json: bool) {
    if json {
        let row = |s: &pb::SecretStatus| json!({ "name": s.name, "versions": s.versions, "set_unix_ms": s.set_unix_ms, "used_by": s.used_by });
        output::json(&json!({ "secrets": secrets.iter().map(row).collect::<Vec<_>>() }));
        return;
    }
    let rows: Vec<Vec<String>> = secrets
        .iter()
        .map(|secret| {
            vec![
                secret.name.clone(),
                secret.versions.last().map(ToString::to_string).unwrap_or_default(),
                output::second(secret.set_unix_ms),
                secret.versions.len().to_string(),
                secret.used_by.join(" "),
            ]
        })
        .collect();
    if rows.is_empty() {
        output::talk("no secret is set; `formic secret set NAME` sets one");
    }
    output::line(&output::table(
        &["SECRET", "VERSION", "SET (UTC)", "KEPT", "USED BY"],
        &rows,
        output::limit(),
    ));
}

/// A value. What is typed or echoed ends with a line break that is no part of it; a file is taken as it is.
fn read(file: Option<&Path>) -> Outcome<Vec<u8>> {
    let most = u64::try_from(secrets::MAX).unwrap_or(u64::MAX) + 2;
    let mut value = Vec::new();
    if let Some(path) = file {
        let opened = std::fs::File::open(path);
        let done = opened.and_then(|file| file.take(most).read_to_end(&mut value));
        done.map_err(|error| Failure::user(format!("cannot read {}", path.display())).because(error))?;
        return Ok(value);
    }
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(Failure::user("a value that is typed here could be read by whoever looks on")
            .help("pipe it in, as with `pass show db | formic secret set db`, or name a file with --file"));
    }
    let done = stdin.lock().take(most).read_to_end(&mut value);
    done.map_err(|error| Failure::user("cannot read standard input").because(error))?;
    if value.last() == Some(&b'\n') {
        value.pop();
    }
    Ok(value)
}

/// The manifest of this folder decides, before what else may run on this machine: a secret must not go to
/// another application than the one that is meant.
async fn store(target: &Target) -> Outcome<Store> {
    if target.remote.url().is_some() {
        return Ok(Store::Engine(Box::new(app::find(target).await?)));
    }
    let here = std::env::current_dir().ok();
    let named = target.app.as_deref().map(Path::new);
    let folder = match named {
        Some(path) => folder_of(path),
        None => here.iter().flat_map(|here| here.ancestors()).find_map(folder_of),
    };
    let Some(folder) = folder else {
        return Ok(Store::Engine(Box::new(app::find(target).await?)));
    };
    if let Some(app) = app::in_folder(&folder).await {
        return Ok(Store::Engine(Box::new(app)));
    }
    Ok(Store::Folder(vault::open(&State::open(&folder)?.database())?))
}

/// The folder of a manifest, if there is one.
fn folder_of(path: &Path) -> Option<PathBuf> {
    Some(manifest::locate(path).ok()?.parent()?.to_path_buf())
}
