//! The service of the secrets: values go in, names and versions come out.

use std::time::{SystemTime, UNIX_EPOCH};

use formic_api::control::v1 as pb;
use formic_core::Error;
use formic_plan::Service;
use formic_reconcile::{Command, Kind};
use formic_rpc::{Context, Reply, Request, reply};
use formic_state::Secret;

use super::{Control, by};
use crate::engine::vault::given;

/// A key, a certificate with its chain: what is larger is no secret but data.
pub(crate) const MAX: usize = 256 << 10;

impl Control {
    /// The services that are wanted.
    async fn users(&self) -> Result<Vec<Service>, Error> {
        let last = self.history().await?.pop();
        Ok(last.map(|present| present.services.clone()).unwrap_or_default())
    }

    /// Tells the events. What was done stays done if the engine has no room to hear of it.
    fn note(&self, text: impl std::fmt::Display) {
        let (kind, service) = (Kind::Secret, String::new());
        let _ = self.engine.send(Command::Note { kind, service, text: text.to_string() });
    }
}

/// Those of them that are given a secret.
fn used_by(services: &[Service], secret: &str) -> Vec<String> {
    let uses = |service: &&Service| given(service).iter().any(|given| given.secret == secret);
    services.iter().filter(uses).map(|service| service.name.clone()).collect()
}

/// Sets a secret in a state, and gives its version.
pub(crate) fn set(state: &formic_state::State, name: &str, value: Vec<u8>) -> Result<u64, Error> {
    let value = Secret::new(value);
    formic_state::check_secret_name(name).map_err(failed)?;
    match value.expose().len() {
        0 => return Err(Error::invalid_argument(format!("the value of {name} is empty"))),
        length if length > MAX => {
            // Whoever reads it does not read on.
            let text = format!("the value of {name} has more than {MAX} bytes, which is the most");
            return Err(Error::invalid_argument(text));
        }
        _ => {}
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = u64::try_from(now.as_millis()).unwrap_or_default();
    let mut write = state.write().map_err(failed)?;
    let version = write.set_secret(name, &value, now).map_err(failed)?;
    write.commit().map_err(failed)?;
    Ok(version)
}

/// Removes a secret from a state with all its versions.
pub(crate) fn remove(state: &formic_state::State, name: &str) -> Result<(), Error> {
    let mut write = state.write().map_err(failed)?;
    if !write.remove_secret(name).map_err(failed)? {
        return Err(Error::not_found(format!(
            "there is no secret {name:?}; `formic secret list` lists them"
        )));
    }
    write.commit().map_err(failed)
}

/// What there is of a state.
pub(crate) fn list(state: &formic_state::State) -> Result<Vec<pb::SecretStatus>, Error> {
    let row = |info: formic_state::SecretInfo| pb::SecretStatus {
        name: info.name,
        versions: info.versions,
        set_unix_ms: i64::try_from(info.at_unix_ms).unwrap_or_default(),
        ..Default::default()
    };
    Ok(state.secrets().map_err(failed)?.into_iter().map(row).collect())
}

fn failed(error: formic_state::Error) -> Error {
    match error {
        formic_state::Error::SecretName(_) => Error::invalid_argument(error.to_string()),
        error => Error::failed_precondition("the secrets cannot be read or written").with_source(error),
    }
}

/// Work that waits for the disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::internal("a write ended with a panic"))?
}

impl pb::SecretService for Control {
    async fn set(
        &self,
        context: Context,
        request: Request<'_, pb::SetSecretRequest>,
    ) -> Reply<pb::SetSecretResponse> {
        let (name, value) = (request.name.to_owned(), request.value.to_vec());
        let (state, of) = (std::sync::Arc::clone(self.vault.secrets.state()), name.clone());
        let version = blocking(move || set(&state, &of, value)).await?;
        self.note(format_args!("{name} has version {version}, by {}", by("secret set", &context)));
        let services = self.users().await?;
        let stale = |service: &String| {
            let wanted = services.iter().find(|wanted| wanted.name == *service);
            wanted.is_some_and(|w| given(w).iter().any(|g| g.secret == name && g.version != version))
        };
        let used_by = used_by(&services, &name).into_iter().filter(stale).collect();
        reply(pb::SetSecretResponse { version, used_by, ..Default::default() })
    }

    async fn list(
        &self,
        _: Context,
        _: Request<'_, pb::ListSecretsRequest>,
    ) -> Reply<pb::ListSecretsResponse> {
        let state = std::sync::Arc::clone(self.vault.secrets.state());
        let mut secrets = blocking(move || list(&state)).await?;
        let services = self.users().await?;
        for secret in &mut secrets {
            secret.used_by = used_by(&services, &secret.name);
        }
        reply(pb::ListSecretsResponse { secrets, ..Default::default() })
    }

    async fn remove(
        &self,
        context: Context,
        request: Request<'_, pb::RemoveSecretRequest>,
    ) -> Reply<pb::RemoveSecretResponse> {
        let name = request.name.to_owned();
        let used_by = used_by(&self.users().await?, &name);
        if !used_by.is_empty() {
            return Err(Error::failed_precondition(format!(
                "{} is given the secret {name}: take it out of the manifest and apply that first",
                used_by.join(", ")
            )));
        }
        let state = std::sync::Arc::clone(self.vault.secrets.state());
        let text = format!("{name} is gone with all its versions, by {}", by("secret rm", &context));
        blocking(move || remove(&state, &name)).await?;
        self.note(text);
        reply(pb::RemoveSecretResponse::default())
    }
}
