//! The order service among the real ones, in memory: what its callers see, and what the other services end up with.
#![allow(clippy::unwrap_used, reason = "tests")]

mod crash;
mod trouble;
mod world;

use std::collections::BTreeSet;

use formic::prelude::*;
use formic_testing::Fault;
use shop_order::proto::{
    Address, CancelRequest, GetRequest, ListRequest, OrderState, ParcelState, PlaceRequest, TrackRequest,
    WatchRequest,
};
use shop_payment::proto::PaymentState;
use shop_product::proto::ReservationState;
use world::*;

#[tokio::test]
async fn a_cart_becomes_a_confirmed_order() {
    let world = World::new().await;
    let customer = world.shopper().await;
    let before = world.available().await;

    let placed = world.place(&customer, request("k1", GOOD_CARD)).await.unwrap();
    let order = &placed.order;
    assert_eq!(order.state, OrderState::Confirmed);
    assert_eq!((order.lines.len(), order.lines[0].quantity), (1, 2));
    assert_eq!(order.total.minor_units, 2 * order.lines[0].unit_price.minor_units);
    assert_eq!(order.card_last_four, "4242");
    world.assert_whole(&order.order_id).await;
    assert_eq!(world.available().await, before - 2);
    assert_eq!(world.cart_size(&customer).await, 0, "the cart is cleared");

    assert_eq!(world.get(&customer, &order.order_id).await, **order);
    let request = TrackRequest { order_id: order.order_id.clone(), ..Default::default() };
    let tracked =
        world.order.track(request).metadata("authorization", &customer.authorization).await.unwrap();
    assert_eq!(tracked.state, ParcelState::Booked);
}

#[tokio::test]
async fn a_repeated_request_is_answered_alike_and_orders_once() {
    let world = World::new().await;
    let customer = world.shopper().await;
    let first = world.place(&customer, request("k1", GOOD_CARD)).await.unwrap();
    // The cart is filled anew: the repetition must not order that.
    world.fill_cart(&customer, 1).await;
    let before = world.available().await;
    for _ in 0..3 {
        assert_eq!(world.place(&customer, request("k1", GOOD_CARD)).await.unwrap(), first);
    }
    assert_eq!(world.available().await, before);
    assert_eq!(world.cart_size(&customer).await, 1, "only the ordered cart was cleared");

    let elsewhere = Address { street: "Weg 2".into(), ..home() };
    let other = PlaceRequest { address: elsewhere.into(), ..request("k1", GOOD_CARD) };
    for other in [other, request("k1", DECLINED_CARD)] {
        let error = world.place(&customer, other).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED"));
    }
    // Another user's key of the same name is another key.
    let other = world.customer("bob@example.com").await;
    world.fill_cart(&other, 1).await;
    let theirs = world.place(&other, request("k1", GOOD_CARD)).await.unwrap();
    assert_ne!(theirs.order.order_id, first.order.order_id);
}

#[tokio::test]
async fn many_at_once_with_one_key_are_one_order() {
    let world = World::new().await;
    let customer = world.shopper().await;
    let before = world.available().await;
    let all = (0..10).map(|_| world.place(&customer, request("k1", GOOD_CARD)));
    let answers = futures::future::join_all(all).await;
    let ids: BTreeSet<_> = answers.into_iter().map(|answer| answer.unwrap().order.order_id.clone()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(world.available().await, before - 2);
}

#[tokio::test]
async fn a_declined_card_undoes_the_order() {
    let world = World::new().await;
    let customer = world.shopper().await;
    let before = world.available().await;
    let error = world.place(&customer, request("k1", DECLINED_CARD)).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::FailedPrecondition, "CARD_DECLINED"));
    let info = error.info().unwrap();
    assert!(info.metadata.contains(&("decline_code".into(), "card_declined".into())), "{info:?}");

    let id = order_id(&error);
    world.assert_nothing(&id).await;
    assert_eq!(world.available().await, before);
    assert_eq!(world.cart_size(&customer).await, 1, "the cart is as it was");
    let order = world.get(&customer, &id).await;
    assert_eq!(order.state, OrderState::Undone);
    assert_eq!(order.failure.reason, "CARD_DECLINED");

    let notes: Vec<_> = world.story(&customer, &id, true).await.into_iter().map(|state| state.note).collect();
    let story = [
        "the order is placed",
        "the stock is reserved",
        "the card was declined: card_declined",
        "the stock is released",
    ];
    assert_eq!(notes, story);

    let again = world.place(&customer, request("k1", DECLINED_CARD)).await.unwrap_err();
    assert_eq!((again.code(), again.message(), again.info()), (error.code(), error.message(), error.info()));
    // With another key and another card the same cart is ordered.
    world.place(&customer, request("k2", GOOD_CARD)).await.unwrap();
}

#[tokio::test]
async fn an_unserved_address_gives_the_money_back() {
    let world = World::new().await;
    let customer = world.shopper().await;
    let error = world.place(&customer, far_away("k1")).await.unwrap_err();
    assert_eq!(reason(&error), "ADDRESS_NOT_SERVED");
    let id = order_id(&error);
    assert_eq!(world.money(&id).await, Some(PaymentState::Refunded));
    assert_eq!(world.stock(&id).await, Some(ReservationState::Released));
    world.assert_nothing(&id).await;
}

#[tokio::test]
async fn the_last_goods_go_to_one_of_two() {
    let world = World::new().await;
    let (ann, bob) = (world.customer("ann@example.com").await, world.customer("bob@example.com").await);
    let mut rest = u32::try_from(world.available().await).unwrap();
    // A cart holds at most 99 of one product.
    for n in 0.. {
        let quantity = rest.min(99);
        if rest <= 99 {
            break;
        }
        world.fill_cart(&ann, quantity).await;
        world.place(&ann, request(&format!("all-{n}"), GOOD_CARD)).await.unwrap();
        rest -= quantity;
    }
    world.fill_cart(&ann, rest).await;
    world.fill_cart(&bob, rest).await;
    let (anns, bobs) = tokio::join!(
        world.place(&ann, request("last", GOOD_CARD)),
        world.place(&bob, request("last", GOOD_CARD))
    );
    let error = match (anns, bobs) {
        (Ok(_), Err(error)) | (Err(error), Ok(_)) => error,
        both => panic!("one of them is served: {both:?}"),
    };
    assert_eq!((error.code(), reason(&error).as_str()), (Code::FailedPrecondition, "OUT_OF_STOCK"));
    world.assert_nothing(&order_id(&error)).await;
    assert_eq!(world.available().await, 0);
}

#[tokio::test]
async fn a_confirmed_order_can_be_called_off() {
    let world = World::new().await;
    let customer = world.shopper().await;
    let before = world.available().await;
    let placed = world.place(&customer, request("k1", GOOD_CARD)).await.unwrap();
    let id = placed.order.order_id.clone();
    let cancel = || {
        let request = CancelRequest { order_id: id.clone(), ..Default::default() };
        world.order.cancel(request).metadata("authorization", &customer.authorization).timeout(PATIENCE)
    };
    for _ in 0..2 {
        let cancelled = cancel().await.unwrap();
        assert_eq!(cancelled.order.state, OrderState::Undone);
        assert_eq!(cancelled.order.failure.reason, "CANCELLED");
    }
    assert_eq!(world.money(&id).await, Some(PaymentState::Refunded));
    world.assert_nothing(&id).await;
    assert_eq!(world.available().await, before);
    // The first answer stays the answer.
    assert_eq!(world.place(&customer, request("k1", GOOD_CARD)).await.unwrap(), placed);
}

#[tokio::test]
async fn a_parcel_on_its_way_cannot_be_called_back() {
    let at_once = shop_shipping::Config { picked_after_ms: 0, in_transit_after_ms: 0, ..Default::default() };
    let world = World::with(quick(), at_once, shop_payment::Config::default()).await;
    let customer = world.shopper().await;
    let placed = world.place(&customer, request("k1", GOOD_CARD)).await.unwrap();
    let id = placed.order.order_id.clone();
    for _ in 0..2 {
        let request = CancelRequest { order_id: id.clone(), ..Default::default() };
        let call =
            world.order.cancel(request).metadata("authorization", &customer.authorization).timeout(PATIENCE);
        let error = call.await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::FailedPrecondition, "ALREADY_SHIPPED"));
    }
    let order = world.get(&customer, &id).await;
    assert_eq!(order.state, OrderState::Confirmed);
    assert_eq!(world.money(&id).await, Some(PaymentState::Captured));
    assert_eq!(world.stock(&id).await, Some(ReservationState::Committed));
}

#[tokio::test]
async fn a_watcher_sees_every_state_in_order() {
    let world = World::new().await;
    let customer = world.shopper().await;
    // Held up at the first step, so that the watcher is there before anything happens.
    world.befall("/shop.product.v1.ProductService/Reserve", &[Fault::Reset]);
    let watching = async {
        let order = world.the_order(&customer).await;
        world.story(&customer, &order.order_id, true).await
    };
    let (placed, story) = tokio::join!(world.place(&customer, request("k1", GOOD_CARD)), watching);
    let states: Vec<_> = story.iter().map(|state| state.state.as_known().unwrap()).collect();
    let expected = [
        OrderState::Placed,
        OrderState::Placed,
        OrderState::StockReserved,
        OrderState::PaymentAuthorized,
        OrderState::Paid,
        OrderState::ShippingBooked,
        OrderState::Confirmed,
    ];
    assert_eq!(states, expected, "{story:?}");
    assert_eq!(story[1].note, "the product service does not answer; trying again");
    assert!(story.is_sorted_by(|a, b| a.sequence < b.sequence));

    let now = world.story(&customer, &placed.unwrap().order.order_id, false).await;
    assert_eq!((now.len(), now[0].state.as_known()), (1, Some(OrderState::Confirmed)));
}

#[tokio::test]
async fn orders_are_their_owners_alone() {
    let world = World::new().await;
    let customer = world.shopper().await;
    let id = world.place(&customer, request("k1", GOOD_CARD)).await.unwrap().order.order_id.clone();
    let other = world.customer("eve@example.com").await;
    let auth = &other.authorization;
    let get = GetRequest { order_id: id.clone(), ..Default::default() };
    let cancel = CancelRequest { order_id: id.clone(), ..Default::default() };
    let track = TrackRequest { order_id: id.clone(), ..Default::default() };
    let watch = WatchRequest { order_id: id.clone(), ..Default::default() };
    let codes = [
        world.order.get(get.clone()).metadata("authorization", auth).await.unwrap_err().code(),
        world.order.cancel(cancel).metadata("authorization", auth).await.unwrap_err().code(),
        world.order.track(track).metadata("authorization", auth).await.unwrap_err().code(),
        world.order.watch(watch).metadata("authorization", auth).await.unwrap_err().code(),
    ];
    assert_eq!(codes, [Code::NotFound; 4]);
    let list = world.order.list(ListRequest::default()).metadata("authorization", auth).await.unwrap();
    assert!(list.orders.is_empty());
    assert_eq!(world.order.get(get).await.unwrap_err().code(), Code::Unauthenticated);
    world.assert_whole(&id).await;
}

#[tokio::test]
async fn bad_requests_are_told_all_that_is_wrong() {
    let world = World::new().await;
    let customer = world.shopper().await;
    let error = world.place(&customer, PlaceRequest::default()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let fields: Vec<_> = error.fields().into_iter().map(|violation| violation.field).collect();
    assert_eq!(fields.len(), 9, "{fields:?}");

    let poor = world.customer("bob@example.com").await;
    let error = world.place(&poor, request("k1", GOOD_CARD)).await.unwrap_err();
    assert_eq!(reason(&error), "CART_EMPTY");
    let list = ListRequest { page_token: "x".into(), ..Default::default() };
    let error = world.order.list(list).metadata("authorization", &customer.authorization).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_card_is_in_no_file() {
    let world = World::new().await;
    let customer = world.shopper().await;
    let number = "5105105105105100";
    world.place(&customer, request("k1", number)).await.unwrap();
    let mut files = 0;
    for entry in std::fs::read_dir(&world.folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        for secret in [number, "12/34", &customer.authorization] {
            assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret}");
        }
        files += 1;
    }
    assert!(files >= 5, "{files} files");
}
