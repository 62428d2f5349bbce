//! What an operator may set: where parcels go, and how fast.

use serde::Deserialize;

/// Long enough to call an order off by hand, short enough to watch a parcel arrive over a cup of coffee.
const PICKED_AFTER_MS: u64 = 20_000;
const IN_TRANSIT_AFTER_MS: u64 = 60_000;
const DELIVERED_AFTER_MS: u64 = 180_000;

const COUNTRIES: [&str; 20] = [
    "AT", "BE", "CA", "CH", "CZ", "DE", "DK", "ES", "FI", "FR", "GB", "IE", "IT", "LU", "NL", "NO", "PL",
    "PT", "SE", "US",
];

/// Helgoland and Büsingen, which carriers know as the exceptions.
const UNSERVED: [&str; 2] = ["DE-27498", "DE-78266"];

/// The table `[service.shipping.config]`; times are in milliseconds since the booking.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// When a parcel is picked.
    pub picked_after_ms: u64,
    /// When it leaves, and can no longer be cancelled.
    pub in_transit_after_ms: u64,
    /// When it arrives.
    pub delivered_after_ms: u64,
    /// Countries that are served, ISO 3166-1 alpha-2.
    pub countries: Vec<String>,
    /// Beginnings of postal codes that are not served although their country is: `DE-27498`.
    pub unserved: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            picked_after_ms: PICKED_AFTER_MS,
            in_transit_after_ms: IN_TRANSIT_AFTER_MS,
            delivered_after_ms: DELIVERED_AFTER_MS,
            countries: COUNTRIES.map(str::to_owned).into(),
            unserved: UNSERVED.map(str::to_owned).into(),
        }
    }
}

impl Config {
    /// Whether a parcel can go there. Case and spaces of a postal code do not matter.
    pub(crate) fn serves(&self, country: &str, postal_code: &str) -> bool {
        let plain =
            |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_uppercase();
        let code = format!("{country}-{}", plain(postal_code));
        self.countries.iter().any(|served| served == country)
            && !self.unserved.iter().any(|prefix| code.starts_with(&plain(prefix)))
    }

    /// Every fault of the settings.
    pub(crate) fn faults(&self) -> Vec<&'static str> {
        let rules = [
            (
                self.picked_after_ms <= self.in_transit_after_ms,
                "picked_after_ms must not exceed in_transit_after_ms",
            ),
            (
                self.in_transit_after_ms <= self.delivered_after_ms,
                "in_transit_after_ms must not exceed delivered_after_ms",
            ),
            (i64::try_from(self.delivered_after_ms).is_ok(), "delivered_after_ms is too large"),
        ];
        rules.into_iter().filter(|(ok, _)| !ok).map(|(_, fault)| fault).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_places_are_not_served() {
        let config = Config::default();
        assert!(config.serves("DE", "10115"));
        assert!(!config.serves("XX", "10115"));
        assert!(!config.serves("", ""));
        assert!(!config.serves("DE", "27498"));
        assert!(!config.serves("DE", " 274 98"));
        assert!(config.serves("FR", "27498"));
    }

    #[test]
    fn a_parcel_cannot_arrive_before_it_leaves() {
        assert!(Config::default().faults().is_empty());
        let hasty = Config { delivered_after_ms: 1, picked_after_ms: u64::MAX, ..Config::default() };
        assert_eq!(hasty.faults().len(), 2);
    }
}
