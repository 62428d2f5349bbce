//! How this service calls others: `client.<name>.traffic` of its settings as policies.

use std::collections::HashMap;

use formic_client::Traffic;
use formic_core::ServiceName;
use formic_settings::ServiceSettings;

use crate::Failure;

/// The policies, by the service that is called.
///
/// # Errors
/// Every fault of all of them, each with who set it.
pub(crate) fn services(settings: &ServiceSettings) -> Result<HashMap<ServiceName, Traffic>, Failure> {
    let check = |traffic: &Traffic| {
        let faults = traffic.validate().into_iter();
        faults.map(|fault| (fault.key, fault.text)).collect()
    };
    let services = settings.clients(check).map_err(|error| Failure::config(error.to_string()))?;
    Ok(services.into_iter().collect())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn read(manifest: &str) -> Result<HashMap<ServiceName, Traffic>, Failure> {
        let name = ServiceName::new("order").unwrap();
        let none = std::iter::empty();
        let args = std::iter::empty();
        services(&formic_settings::read_service(&name, |_| {}, Some(manifest), none, args).unwrap())
    }

    #[test]
    fn a_service_calls_as_its_settings_say() {
        let services = read("[client.user.traffic]\npolicy = \"random\"\nhedge = {}\n").unwrap();
        let traffic = &services[&ServiceName::new("user").unwrap()];
        assert_eq!(traffic.policy.as_str(), "random");
        assert!(traffic.hedge.is_some());
        assert!(read("").unwrap().is_empty());
    }

    #[test]
    fn every_fault_is_told_with_its_line() {
        let text =
            "[client.user.traffic]\npolicy = \"fast\"\nsubset = 0\n[client.mail.traffic]\nsubset = -1\n";
        let failure = format!("{:?}", read(text).unwrap_err());
        for text in ["formic.toml:2", "formic.toml:3", "formic.toml:5", "expected at least 1"] {
            assert!(failure.contains(text), "{text}: {failure}");
        }
    }
}
