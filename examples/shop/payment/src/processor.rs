//! The made-up card processor: it decides by the number alone, as the test cards of real processors do.
//!
//! It holds no money. Like a real one it knows a payment by its id and goes on thinking about it when nobody listens any
//! more, so that who asks again after a lost answer waits only for the rest.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::Config;
use crate::card::Card;

/// Thinks about it for [`Config::slow_card_delay_ms`] and then agrees.
const SLOW: &str = "4000000000000077";

/// How long a verdict that nobody has fetched is kept.
const KEPT: Duration = Duration::from_secs(600);

/// What a processor says to a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Approved,
    /// With the code by which card processors say why.
    Declined(&'static str),
}

/// Cheap to clone; the clones are one processor.
#[derive(Clone, Debug)]
pub(crate) struct Processor {
    config: Config,
    /// When the verdicts on the payments that it thinks about will be there.
    thinking: Arc<Mutex<HashMap<String, Instant>>>,
}

impl Processor {
    pub(crate) fn new(config: Config) -> Self {
        Self { config, thinking: Arc::default() }
    }

    /// The verdict on this payment, when it is there. May be dropped and asked for again.
    pub(crate) async fn authorize(&self, payment_id: &str, card: &Card) -> Verdict {
        let slow = if card.is(SLOW) { self.config.slow_card_delay() } else { Duration::ZERO };
        let delay = self.config.processor_delay() + slow;
        if !delay.is_zero() {
            tokio::time::sleep_until(self.ready(payment_id, delay)).await;
            self.lock().remove(payment_id);
        }
        decide(card)
    }

    fn ready(&self, payment_id: &str, delay: Duration) -> Instant {
        let now = Instant::now();
        let mut thinking = self.lock();
        thinking.retain(|_, ready| *ready + KEPT > now);
        *thinking.entry(payment_id.to_owned()).or_insert(now + delay)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
        self.thinking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn decide(card: &Card) -> Verdict {
    const DECLINED: [(&str, &str); 3] = [
        ("4000000000000002", "card_declined"),
        ("4000000000000069", "expired_card"),
        ("4000000000009995", "insufficient_funds"),
    ];
    if !card.passes_luhn() {
        return Verdict::Declined("incorrect_number");
    }
    match DECLINED.iter().find(|(number, _)| card.is(number)) {
        Some((_, code)) => Verdict::Declined(code),
        None => Verdict::Approved,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn card(number: &str) -> Card {
        Card::parse(number, "12/34", "123").unwrap()
    }

    #[test]
    fn the_number_decides() {
        assert_eq!(decide(&card("4242 4242 4242 4242")), Verdict::Approved);
        assert_eq!(decide(&card("5555 5555 5555 4444")), Verdict::Approved);
        assert_eq!(decide(&card(SLOW)), Verdict::Approved);
        assert_eq!(decide(&card("4000 0000 0000 0002")), Verdict::Declined("card_declined"));
        assert_eq!(decide(&card("4000 0000 0000 0069")), Verdict::Declined("expired_card"));
        assert_eq!(decide(&card("4000 0000 0000 9995")), Verdict::Declined("insufficient_funds"));
        assert_eq!(decide(&card("4242 4242 4242 4241")), Verdict::Declined("incorrect_number"));
    }

    #[formic::test]
    async fn who_asks_again_waits_for_the_rest() {
        let config = Config { processor_delay_ms: 0, slow_card_delay_ms: 60_000 };
        let processor = Processor::new(config);
        let start = Instant::now();
        let impatient = Duration::from_secs(40);
        let first = tokio::time::timeout(impatient, processor.authorize("p1", &card(SLOW))).await;
        assert!(first.is_err());
        let second = tokio::time::timeout(impatient, processor.authorize("p1", &card(SLOW))).await;
        assert_eq!(second.unwrap(), Verdict::Approved);
        assert_eq!(start.elapsed().as_secs(), 60);
        assert!(processor.lock().is_empty());
    }

    #[formic::test]
    async fn other_cards_do_not_wait() {
        let processor = Processor::new(Config { processor_delay_ms: 0, slow_card_delay_ms: 60_000 });
        let start = Instant::now();
        assert_eq!(processor.authorize("p1", &card("4242424242424242")).await, Verdict::Approved);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[formic::test]
    async fn what_nobody_fetches_is_forgotten() {
        let processor = Processor::new(Config { processor_delay_ms: 1, slow_card_delay_ms: 0 });
        let gone = processor.ready("p1", Duration::from_secs(1));
        tokio::time::sleep_until(gone + KEPT).await;
        processor.ready("p2", Duration::from_secs(1));
        assert_eq!(processor.lock().len(), 1);
    }
}
