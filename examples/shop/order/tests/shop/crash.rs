//! The order service is killed within each step, before and after the step has taken effect, and started again.

use shop_order::proto::{OrderState, PlaceRequest};

use formic_testing::Fault;

use crate::world::*;

/// Kills the order service while it waits for this call, and answers where the order ends after a restart.
async fn killed_in(
    method: &str,
    fault: &Fault,
    request: PlaceRequest,
) -> (World, Customer, String, OrderState) {
    let world = World::new().await;
    let customer = world.shopper().await;
    world.befall(method, std::slice::from_ref(fault));
    let id = {
        let placing = world.place(&customer, request);
        tokio::pin!(placing);
        let id = tokio::select! {
            answer = &mut placing => panic!("{method} is held up, yet {answer:?}"),
            order = async {
                let order = world.the_order(&customer).await;
                world.faults_used().await;
                order
            } => order.order_id.clone(),
        };
        world.kill_order().await;
        id
    };
    world.start_order().await;
    let state = world.settled(&customer, &id).await;
    (world, customer, id, state)
}

#[tokio::test]
async fn killed_before_the_payment_is_known_it_undoes() {
    for method in ["/shop.product.v1.ProductService/Reserve", "/shop.payment.v1.PaymentService/Authorize"] {
        for fault in &[Fault::Drop, Fault::DropAnswer] {
            let (world, customer, id, state) = killed_in(method, fault, request("k1", GOOD_CARD)).await;
            assert_eq!(state, OrderState::Undone, "{method} {fault:?}");
            world.assert_nothing(&id).await;
            assert_eq!(world.cart_size(&customer).await, 1);

            let error = world.place(&customer, request("k1", GOOD_CARD)).await.unwrap_err();
            assert_eq!(reason(&error), "INTERRUPTED");
            world.place(&customer, request("k2", GOOD_CARD)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn killed_after_the_payment_is_known_it_goes_on() {
    let methods = [
        "/shop.payment.v1.PaymentService/Capture",
        "/shop.shipping.v1.ShippingService/Book",
        "/shop.product.v1.ProductService/Commit",
    ];
    for method in methods {
        for fault in &[Fault::Drop, Fault::DropAnswer] {
            let (world, customer, id, state) = killed_in(method, fault, request("k1", GOOD_CARD)).await;
            assert_eq!(state, OrderState::Confirmed, "{method} {fault:?}");
            world.assert_whole(&id).await;
            let again = world.place(&customer, request("k1", GOOD_CARD)).await.unwrap();
            assert_eq!(again.order.order_id, id);
            // The token died with the process; the customer's return clears the cart.
            assert_eq!(world.cart_size(&customer).await, 0, "{method} {fault:?}");
        }
    }
}

#[tokio::test]
async fn killed_while_it_undoes_it_goes_on_undoing() {
    let methods = [
        "/shop.payment.v1.PaymentService/Void",
        "/shop.payment.v1.PaymentService/Refund",
        "/shop.product.v1.ProductService/Release",
    ];
    for method in methods {
        for fault in &[Fault::Drop, Fault::DropAnswer] {
            let (world, customer, id, state) = killed_in(method, fault, far_away("k1")).await;
            assert_eq!(state, OrderState::Undone, "{method} {fault:?}");
            world.assert_nothing(&id).await;
            let error = world.place(&customer, far_away("k1")).await.unwrap_err();
            assert_eq!(reason(&error), "ADDRESS_NOT_SERVED", "the cause is remembered");
        }
    }
}
