//! The settings `limits`, and what of `drain` is the server's, in its words.

use formic_server::Config;
use formic_server::overload::{self, By, Rate};
use formic_settings::{RateLimit, ServiceSettings};

/// A server's configuration by these settings; all else is as it is.
pub(crate) fn config(settings: &ServiceSettings) -> Config {
    let limits = &settings.limits;
    let defaults = overload::Config::default();
    let overload = overload::Config {
        adaptive: limits.adaptive,
        min_in_flight: limits.min_in_flight,
        queue: limits.queue,
        exempt: limits.exempt.clone(),
        // Settings are checked where they are read; only code can set what is no name.
        priority: limits.priority.parse().ok().or(defaults.priority),
        rates: limits.rate.iter().map(|(name, rate)| self::rate(name, rate)).collect(),
    };
    let (max_in_flight, drain_streams) = (limits.max_in_flight, settings.drain.streams);
    let multiplexed = settings.transport != "http";
    let (max_held, idle_timeout) = (limits.memory, limits.idle);
    Config {
        max_in_flight,
        max_held,
        idle_timeout,
        overload,
        drain_streams,
        multiplexed,
        ..Config::default()
    }
}

/// What of a client's configuration is a setting.
pub(crate) fn client(settings: &ServiceSettings) -> formic_client::Config {
    let transport = settings.client.transport.as_ref().unwrap_or(&settings.transport);
    formic_client::Config {
        timeout: settings.timeout,
        transport: formic_client::Transport::named(transport).unwrap_or_default(),
        capture: settings
            .client
            .capture
            .as_ref()
            .map(|folder| formic_client::Recording::Folder(folder.into())),
        ..formic_client::Config::default()
    }
}

fn rate(name: &str, rate: &RateLimit) -> Rate {
    let by = match (rate.by.as_str(), rate.by.strip_prefix("metadata:").map(str::parse)) {
        (_, Some(Ok(header))) => By::Metadata(header),
        ("peer", _) => By::Peer,
        _ => By::All,
    };
    let RateLimit { per_second, burst, .. } = *rate;
    Rate { name: name.into(), by, per_second, burst, methods: rate.methods.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_servers_own() {
        let (ours, theirs) = (config(&ServiceSettings::default()), Config::default());
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
    }

    #[test]
    fn a_service_that_keeps_to_http_calls_over_it_too() {
        let mut settings = ServiceSettings::default();
        settings.transport = "http".into();
        assert!(!config(&settings).multiplexed);
        assert_eq!(client(&settings).transport, formic_client::Transport::Http);
        settings.client.transport = Some("auto".into());
        assert_eq!(client(&settings).transport, formic_client::Transport::Auto);
    }

    #[test]
    fn every_kind_of_key() {
        let limit = |by: &str| RateLimit { by: by.into(), per_second: 2.0, burst: 3, methods: Vec::new() };
        assert_eq!(rate("a", &limit("all")).by, By::All);
        assert_eq!(rate("a", &limit("peer")).by, By::Peer);
        let user = http::HeaderName::from_static("x-user");
        assert_eq!(rate("a", &limit("metadata:x-user")).by, By::Metadata(user));
    }
}
