//! Services that lose calls, lose answers, or are not there.

use std::time::Duration;

use formic::prelude::*;
use formic_testing::{Fault, Faults, wait_for};
use shop_order::Config;
use shop_order::proto::{CancelRequest, OrderState};
use shop_payment::proto::{self as payment, PaymentState};

use crate::world::*;

const STEPS: [&str; 5] = [
    "/shop.product.v1.ProductService/Reserve",
    "/shop.payment.v1.PaymentService/Authorize",
    "/shop.payment.v1.PaymentService/Capture",
    "/shop.shipping.v1.ShippingService/Book",
    "/shop.product.v1.ProductService/Commit",
];

const UNDOS: [&str; 3] = [
    "/shop.payment.v1.PaymentService/Void",
    "/shop.payment.v1.PaymentService/Refund",
    "/shop.product.v1.ProductService/Release",
];

#[tokio::test]
async fn lost_calls_and_answers_do_not_matter() {
    let world = World::new().await;
    let customer = world.customer("ann@example.com").await;
    let before = world.available().await;
    for method in STEPS {
        world.befall(method, &[Fault::Reset, Fault::ResetAnswer, Fault::ResetAnswer]);
    }
    world.fill_cart(&customer, 2).await;
    let placed = world.place(&customer, request("k1", GOOD_CARD)).await.unwrap();
    assert_eq!(world.faults.left(), 0);
    world.assert_whole(&placed.order.order_id).await;
    assert_eq!(world.available().await, before - 2, "reserved once");
}

#[tokio::test]
async fn lost_calls_and_answers_of_an_undo_do_not_matter() {
    let world = World::new().await;
    let customer = world.shopper().await;
    let before = world.available().await;
    for method in UNDOS {
        world.befall(method, &[Fault::Reset]);
        world.faults.calls().method(method).optional().meet(Fault::ResetAnswer);
    }
    let error = world.place(&customer, far_away("k1")).await.unwrap_err();
    assert_eq!(reason(&error), "ADDRESS_NOT_SERVED");
    // What was lost was an answer to Refund, not its effect; the second Void says so, so one Refund is all there is.
    assert!(world.faults.left() <= 1, "{}", world.faults.left());
    let id = order_id(&error);
    assert_eq!(world.money(&id).await, Some(PaymentState::Refunded));
    world.assert_nothing(&id).await;
    assert_eq!(world.available().await, before);
}

#[tokio::test]
async fn an_order_outlives_its_call_and_waits_for_a_service() {
    let world = World::new().await;
    let customer = world.shopper().await;
    world.network.remove("shipping");
    let call = world.order.place(request("k1", GOOD_CARD)).metadata("authorization", &customer.authorization);
    let error = call.timeout(Duration::from_secs(4)).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::DeadlineExceeded, "ORDER_PENDING"));
    let id = order_id(&error);
    let paid = || async { (world.get(&customer, &id).await.state == OrderState::Paid).then_some(()) };
    wait_for("the order to be paid", PATIENCE, paid).await;

    world.start_shipping(shop_shipping::Config::default());
    assert_eq!(world.settled(&customer, &id).await, OrderState::Confirmed);
    world.assert_whole(&id).await;
    let again = world.place(&customer, request("k1", GOOD_CARD)).await.unwrap();
    assert_eq!(again.order.order_id, id);
    assert_eq!(world.cart_size(&customer).await, 0);
}

#[tokio::test]
async fn an_order_that_waits_can_be_called_off() {
    // Pauses so long that only the hurry of a cancellation can end one in time.
    let config = Config { retry_first_ms: 600_000, retry_max_ms: 600_000, ..quick() };
    let world = World::with(config, shop_shipping::Config::default(), shop_payment::Config::default()).await;
    let customer = world.shopper().await;
    world.befall(STEPS[3], &[Fault::Reset]);
    let placing = world.place(&customer, request("k1", GOOD_CARD));
    let cancelling = async {
        let order = world.the_order(&customer).await;
        world.faults_used().await;
        let request = CancelRequest { order_id: order.order_id.clone(), ..Default::default() };
        let call = world.order.cancel(request).metadata("authorization", &customer.authorization);
        call.timeout(PATIENCE).await.unwrap().into_message()
    };
    let (placed, cancelled) = tokio::join!(placing, cancelling);
    assert_eq!(reason(&placed.unwrap_err()), "CANCELLED");
    assert_eq!(cancelled.order.state, OrderState::Undone);
    world.assert_nothing(&cancelled.order.order_id).await;
}

#[tokio::test]
async fn a_payment_that_is_never_heard_of_is_voided_in_advance() {
    // More than a slow disk takes for a step, and for a first try of each.
    let config = Config { step_timeout_ms: 2_000, give_up_after_ms: 300, ..quick() };
    let slow = shop_payment::Config { slow_card_delay_ms: 600_000, ..Default::default() };
    let world = World::with(config, shop_shipping::Config::default(), slow).await;
    let customer = world.shopper().await;
    let slow_card = "4000 0000 0000 0077";
    let error = world.place(&customer, request("k1", slow_card)).await.unwrap_err();
    assert_eq!(reason(&error), "GAVE_UP");
    let id = order_id(&error);
    assert_eq!(world.money(&id).await, Some(PaymentState::Voided), "a tombstone");
    world.assert_nothing(&id).await;

    // The authorization that was under way all the time arrives at last.
    let card = payment::Card {
        number: GOOD_CARD.into(),
        expiry: "12/34".into(),
        cvc: "123".into(),
        ..Default::default()
    };
    let late = payment::AuthorizeRequest {
        payment_id: format!("payment-{id}"),
        order_id: id.clone(),
        user_id: "u".into(),
        amount: payment::Money { minor_units: 1, currency: "EUR".into(), ..Default::default() }.into(),
        card: card.into(),
        ..Default::default()
    };
    let error = world.payment.authorize(late).await.unwrap_err();
    assert_eq!(reason(&error), "PAYMENT_VOIDED");
    world.assert_nothing(&id).await;
}

#[tokio::test]
async fn a_slow_payment_is_asked_for_until_it_is_there() {
    let config = Config { step_timeout_ms: 200, ..quick() };
    let slow = shop_payment::Config { slow_card_delay_ms: 500, ..Default::default() };
    let world = World::with(config, shop_shipping::Config::default(), slow).await;
    let customer = world.shopper().await;
    let placed = world.place(&customer, request("k1", "4000 0000 0000 0077")).await.unwrap();
    world.assert_whole(&placed.order.order_id).await;
    let story = world.story(&customer, &placed.order.order_id, true).await;
    assert!(
        story.iter().any(|state| state.note.starts_with("the payment service does not answer")),
        "{story:?}"
    );
}

#[tokio::test]
async fn a_caller_who_goes_away_has_ordered_all_the_same() {
    let world = World::new().await;
    let customer = world.shopper().await;
    world.faults.calls().method(STEPS[0]).times(20).meet(Fault::Reset);
    let placing = world.place(&customer, request("k1", GOOD_CARD));
    let order = tokio::select! {
        _ = placing => panic!("the first step is held up"),
        order = world.the_order(&customer) => order,
    };
    assert_eq!(world.settled(&customer, &order.order_id).await, OrderState::Confirmed);
    world.assert_whole(&order.order_id).await;
    wait_for("the cart to be cleared", PATIENCE, || async {
        (world.cart_size(&customer).await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_cart_that_could_not_be_cleared_is_not_ordered_twice() {
    let world = World::new().await;
    let customer = world.shopper().await;
    // As often as the worker tries.
    let cleared = world.faults.calls().method("/shop.product.v1.ProductService/ClearCart");
    cleared.times(3).meet(Fault::Reset);
    world.place(&customer, request("k1", GOOD_CARD)).await.unwrap();
    assert_eq!(world.faults.left(), 0);
    assert_eq!(world.cart_size(&customer).await, 1);

    let error = world.place(&customer, request("k2", GOOD_CARD)).await.unwrap_err();
    assert_eq!(reason(&error), "CART_EMPTY");
    assert_eq!(world.cart_size(&customer).await, 0);
}

#[tokio::test]
async fn too_many_orders_are_refused_and_none_is_half_taken() {
    let config = Config { max_under_way: 1, ..quick() };
    let world = World::with(config, shop_shipping::Config::default(), shop_payment::Config::default()).await;
    let (ann, bob) = (world.shopper().await, world.customer("bob@example.com").await);
    world.fill_cart(&bob, 1).await;
    world.network.remove("shipping");
    let placing = world.place(&ann, request("k1", GOOD_CARD));
    tokio::pin!(placing);
    let order = tokio::select! {
        answer = &mut placing => panic!("shipping is away, yet {answer:?}"),
        order = world.the_order(&ann) => order,
    };
    let error = world.place(&bob, request("k1", GOOD_CARD)).await.unwrap_err();
    assert_eq!(error.code(), Code::ResourceExhausted);
    assert!(error.retry_after().is_some());

    // What is there can still be called off, and makes room.
    let cancel = CancelRequest { order_id: order.order_id.clone(), ..Default::default() };
    let cancel = world.order.cancel(cancel).metadata("authorization", &ann.authorization).timeout(PATIENCE);
    world.start_shipping(shop_shipping::Config::default());
    let (cancelled, _) = tokio::join!(cancel, placing);
    assert_eq!(cancelled.unwrap().order.state, OrderState::Undone);
    world.place(&bob, request("k1", GOOD_CARD)).await.unwrap();
}

/// The whole saga with partners that are slow, out of reach for a while, and lose connections by chance: money is
/// taken once and goods leave once, whatever the seed.
#[tokio::test]
async fn a_saga_over_a_bad_network_comes_to_one_end() {
    let mut lost = 0;
    for seed in 0..4 {
        let config = Config { step_timeout_ms: 100, ..quick() };
        let mut world =
            World::with(config, shop_shipping::Config::default(), shop_payment::Config::default()).await;
        let faults = Faults::seeded(seed);
        world.network.inject(&faults);
        world.faults = faults;
        let customer = world.shopper().await;
        let before = world.available().await;
        let from_order = || world.faults.calls().from("order");
        // Payment takes longer than the saga waits, in the middle of it; twice the money was taken, and twice not.
        let slow = from_order().to("payment").times(2).meet(Fault::Latency(Duration::from_millis(150)));
        let late =
            from_order().to("payment").after(1).times(2).meet(Fault::SlowBody(Duration::from_millis(150)));
        // What a step asks for is asked again; what comes before the first one is the caller's to repeat.
        let by_chance = STEPS.into_iter().flat_map(|step| {
            [Fault::Reset, Fault::ResetAnswer].map(|fault| {
                world.faults.calls().from("order").method(step).chance(0.25).optional().meet(fault)
            })
        });
        let by_chance: Vec<_> = by_chance.collect();
        world.faults.part("order", "shipping");
        let placing = world.place(&customer, request("k1", GOOD_CARD));
        let joining = async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            // On a busy machine it takes longer until the saga has come to shipping.
            while !world.faults.has_held("order", "shipping") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            world.faults.join("order", "shipping");
        };
        let joining = formic_testing::in_time("a call to shipping", Duration::from_secs(20), joining);
        let (placed, ()) = tokio::join!(placing, joining);
        let id = placed.unwrap().order.order_id.clone();
        world.assert_whole(&id).await;
        assert_eq!(world.available().await, before - 2, "seed {seed}: reserved once");
        assert_eq!((slow.happened(), late.happened()), (2, 2), "seed {seed}");
        lost += by_chance.iter().map(|rule| rule.happened()).sum::<usize>();
    }
    // Each step is a chance in two; over all seeds they cannot all have missed.
    assert!(lost > 4, "{lost}");
}
