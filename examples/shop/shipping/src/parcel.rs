//! How a parcel moves: a pure function of the moments fixed at its booking, of its cancellation, and of the clock.
//!
//! All moments are in milliseconds since the Unix epoch.

use crate::Config;

/// Where a parcel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Booked,
    Picked,
    InTransit,
    Delivered,
    Cancelled,
}

/// When what happens, as fixed at the booking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timetable {
    pub(crate) booked: i64,
    pub(crate) picked: i64,
    pub(crate) in_transit: i64,
    pub(crate) delivered: i64,
}

impl Timetable {
    pub(crate) fn new(booked: i64, config: &Config) -> Self {
        let after = |ms: u64| booked.saturating_add(i64::try_from(ms).unwrap_or(i64::MAX));
        Self {
            booked,
            picked: after(config.picked_after_ms),
            in_transit: after(config.in_transit_after_ms),
            delivered: after(config.delivered_after_ms),
        }
    }

    /// Whether the parcel can still be stopped.
    pub(crate) fn may_cancel(&self, now: i64) -> bool {
        now < self.in_transit
    }

    /// What has happened by `now`, oldest first and never empty. A clock that was set back undoes no booking.
    pub(crate) fn events(&self, cancelled: Option<i64>, now: i64) -> Vec<(State, i64)> {
        let until = cancelled.unwrap_or(now).min(now.max(self.booked));
        let mut events = vec![(State::Booked, self.booked)];
        let later = [
            (State::Picked, self.picked),
            (State::InTransit, self.in_transit),
            (State::Delivered, self.delivered),
        ];
        // A cancellation comes before the parcel leaves, so whatever its moment, nothing later has happened.
        let limit = if cancelled.is_some() { 1 } else { later.len() };
        events.extend(later.into_iter().take(limit).filter(|(_, at)| *at <= until));
        events.extend(cancelled.map(|at| (State::Cancelled, at)));
        events
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Timetable = Timetable { booked: 100, picked: 110, in_transit: 120, delivered: 130 };

    fn state(cancelled: Option<i64>, now: i64) -> State {
        TIMES.events(cancelled, now).last().map_or(State::Booked, |(state, _)| *state)
    }

    #[test]
    fn the_clock_moves_it() {
        let by_time = [(0, State::Booked), (100, State::Booked), (109, State::Booked), (110, State::Picked)];
        let later = [
            (119, State::Picked),
            (120, State::InTransit),
            (130, State::Delivered),
            (i64::MAX, State::Delivered),
        ];
        for (now, expected) in by_time.into_iter().chain(later) {
            assert_eq!(state(None, now), expected, "at {now}");
        }
        assert_eq!(TIMES.events(None, 125).len(), 3);
    }

    #[test]
    fn a_cancelled_parcel_stays_where_it_was() {
        assert_eq!(TIMES.events(Some(105), 500), [(State::Booked, 100), (State::Cancelled, 105)]);
        assert_eq!(
            TIMES.events(Some(115), 500),
            [(State::Booked, 100), (State::Picked, 110), (State::Cancelled, 115)]
        );
        // The clock was set back between the cancellation and now.
        assert_eq!(state(Some(115), 90), State::Cancelled);
    }

    #[test]
    fn it_can_be_stopped_until_it_leaves() {
        assert!(TIMES.may_cancel(0));
        assert!(TIMES.may_cancel(119));
        assert!(!TIMES.may_cancel(120));
    }

    #[test]
    fn speeds_count_from_the_booking() {
        let config = Config {
            picked_after_ms: 1,
            in_transit_after_ms: 2,
            delivered_after_ms: u64::MAX,
            ..Config::default()
        };
        let times = Timetable::new(1000, &config);
        assert_eq!((times.picked, times.in_transit, times.delivered), (1001, 1002, i64::MAX));
    }
}
