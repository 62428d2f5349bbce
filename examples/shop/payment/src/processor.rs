//! The made-up card processor: it decides by the number alone, as the test cards of real processors do.
//!
//! It holds no money and remembers nothing, so asking it twice is harmless; a real one is asked with the payment's id as
//! its idempotency key.

use crate::Config;
use crate::card::Card;

/// Thinks about it for [`Config::slow_card_delay_ms`] and then agrees.
const SLOW: &str = "4000000000000077";

/// What a processor says to a card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Approved,
    /// With the code by which card processors say why.
    Declined(&'static str),
}

pub(crate) async fn authorize(config: &Config, card: &Card) -> Verdict {
    let slow = card.is(SLOW).then(|| config.slow_card_delay()).unwrap_or_default();
    let thinking = config.processor_delay() + slow;
    if !thinking.is_zero() {
        tokio::time::sleep(thinking).await;
    }
    decide(card)
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

    fn decide_on(number: &str) -> Verdict {
        decide(&Card::parse(number, "12/34", "123").unwrap())
    }

    #[test]
    fn the_number_decides() {
        assert_eq!(decide_on("4242 4242 4242 4242"), Verdict::Approved);
        assert_eq!(decide_on("5555 5555 5555 4444"), Verdict::Approved);
        assert_eq!(decide_on(SLOW), Verdict::Approved);
        assert_eq!(decide_on("4000 0000 0000 0002"), Verdict::Declined("card_declined"));
        assert_eq!(decide_on("4000 0000 0000 0069"), Verdict::Declined("expired_card"));
        assert_eq!(decide_on("4000 0000 0000 9995"), Verdict::Declined("insufficient_funds"));
        assert_eq!(decide_on("4242 4242 4242 4241"), Verdict::Declined("incorrect_number"));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn only_the_slow_card_is_slow() {
        let config = Config { processor_delay_ms: 0, slow_card_delay_ms: 60_000 };
        let slow = Card::parse(SLOW, "12/34", "123").unwrap();
        let quick = Card::parse("4242424242424242", "12/34", "123").unwrap();
        let moment = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(moment, authorize(&config, &slow)).await.is_err());
        assert_eq!(authorize(&config, &quick).await, Verdict::Approved);
    }
}
