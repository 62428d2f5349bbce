//! What people read, on wide and on narrow terminals.

use super::*;

fn ready() -> pb::EndpointTraffic {
    pb::EndpointTraffic {
        instance: "order-5f3c21aa".into(),
        endpoint: "127.0.0.1:41234".into(),
        version: "1".into(),
        weight: 1.0,
        in_flight: 3,
        latency_ms: 1.234,
        calls: 400,
        success_rate: Some(1.0),
        state: "ready".into(),
        transport: "multiplexed".into(),
        ..Default::default()
    }
}

fn ejected() -> pb::EndpointTraffic {
    pb::EndpointTraffic {
        instance: "order-9b01c4de".into(),
        endpoint: "127.0.0.1:41235".into(),
        state: "ejected".into(),
        success_rate: Some(0.4999),
        latency_ms: 1000.0,
        reason: "7 of the last 12 calls failed, of the others' 0 %".into(),
        probe_in: "850ms".into(),
        ejections: 2,
        ..ready()
    }
}

fn seen() -> pb::TrafficResponse {
    let name = |instance: &str, service: &str| pb::Caller {
        instance: instance.into(),
        service: service.into(),
        ..Default::default()
    };
    let wanted =
        r#"{"policy":"round_robin","retry":{"repeats":2},"rules":[{"name":"beta","to":{"version":"2"}}]}"#;
    let policy: Traffic = serde_json::from_str(wanted).expect("a policy");
    let caller = pb::CallerTraffic {
        caller: Some(name("gateway-0001", "gateway")).into(),
        policy: serde_json::to_string(&policy).expect("encodes"),
        retries_left: 99.6,
        endpoints: vec![ready(), ejected()],
        notes: vec!["rule \"beta\": no instance has version 2, so the rule is passed over".into()],
        wanted: wanted.into(),
        ..Default::default()
    };
    pb::TrafficResponse {
        callers: vec![caller],
        silent: vec![name("user-0002", "user")],
        wanted: wanted.into(),
        ..Default::default()
    }
}

#[test]
fn a_wide_terminal_shows_a_table() {
    assert_eq!(
        render("order", &seen(), None),
        "\
gateway-0001 calls order: policy round_robin; retry (repeats 2); rules beta
budget: 99 further attempts left
note: rule \"beta\": no instance has version 2, so the rule is passed over
INSTANCE        ADDRESS          VERSION  IN FLIGHT  EWMA    SUCCESS       STATE    BY
order-5f3c21aa  127.0.0.1:41234  1        3          1.23ms  100% of 400   ready    multiplexed
order-9b01c4de  127.0.0.1:41235  1        3          1.0s    49.9% of 400  ejected  multiplexed
order-9b01c4de: 7 of the last 12 calls failed, of the others' 0 %; probed in 850ms, out 2 times in a row
user-0002 did not answer in time"
    );
}

#[test]
fn a_narrow_terminal_loses_nothing() {
    let text = render("order", &seen(), Some(40));
    assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
    for part in ["order-9b01c4de ejected", "127.0.0.1:41235", "multiplexed", "850ms", "beta", "user-0002"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("7 of the last 12 calls failed, of the others' 0 %; probed in 850ms"), "{words}");
}

#[test]
fn a_policy_that_is_not_the_manifests_is_told() {
    let mut seen = seen();
    assert!(!render("order", &seen, None).contains("not the manifest's"));
    // What others are told does not matter.
    seen.wanted = String::new();
    assert!(!render("order", &seen, None).contains("not the manifest's"));
    seen.callers[0].wanted = String::new();
    assert!(render("order", &seen, None).contains("not the manifest's"));
    assert_eq!(to_json("order", &seen)["callers"][0]["wanted"], false);
}

#[test]
fn a_panic_is_for_programs_too() {
    let mut seen = seen();
    let said = |seen: &pb::TrafficResponse| {
        let caller = &to_json("order", seen)["callers"][0];
        [&caller["panic"], &caller["fit"], &caller["counted"]].map(Clone::clone)
    };
    assert_eq!(said(&seen), [json!(false), json!(0), json!(0)]);
    let caller = &mut seen.callers[0];
    (caller.panic, caller.fit, caller.counted) = (true, 1, 4);
    assert_eq!(said(&seen), [json!(true), json!(1), json!(4)]);
}

#[test]
fn what_was_not_measured_and_who_was_not_connected_to_has_a_dash() {
    let mut seen = seen();
    let endpoints = &mut seen.callers[0].endpoints;
    (endpoints[1].transport, endpoints[1].latency_ms) = (String::new(), 0.0);
    let text = render("order", &seen, None);
    let row = text.lines().find(|line| line.starts_with("order-9b01c4de  ")).expect("a row");
    assert!(row.contains(" -  ") && row.ends_with("  -"), "{text}");
    let told = &to_json("order", &seen)["callers"][0]["endpoints"][1];
    assert_eq!((&told["transport"], &told["latency_ms"]), (&json!(""), &Value::Null));
    // Of nobody there is nothing to say.
    let endpoints = &mut seen.callers[0].endpoints;
    (endpoints[0].transport, endpoints[0].latency_ms) = (String::new(), 0.0);
    let text = render("order", &seen, None);
    assert!(!text.contains("EWMA") && !text.contains(" BY"), "{text}");
}

#[test]
fn nobody_is_told_too() {
    let told = |limit| render("order", &pb::TrafficResponse::default(), limit);
    assert_eq!(
        told(None),
        "no service and no gateway has called order yet\n\
         calls of `formic call` end with it and are not counted here"
    );
    assert!(told(Some(40)).lines().all(|line| line.chars().count() <= 40), "{}", told(Some(40)));
}
