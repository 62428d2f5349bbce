"""Drives the shop with grpcio, the gRPC client that most of the world uses.

One case a run: `python cases.py CASE`, with where the shop is in FORMIC_E2E as JSON. A case that fails raises.
"""

import json
import os
import sys
import time
import uuid

PLACES = json.loads(os.environ["FORMIC_E2E"])
sys.path.insert(0, PLACES["stubs"])

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from shop.order.v1 import order_pb2, order_pb2_grpc
from shop.payment.v1 import payment_pb2, payment_pb2_grpc
from shop.product.v1 import product_pb2, product_pb2_grpc
from shop.user.v1 import user_pb2, user_pb2_grpc

# No call of these cases takes longer unless it is meant to.
PATIENCE = 60


def gateway():
    return grpc.insecure_channel(PLACES["gateway"])


def service(name):
    return grpc.insecure_channel(PLACES["services"][name])


def log_in(channel):
    """A new customer; returns the metadata that speaks for them."""
    users = user_pb2_grpc.UserServiceStub(channel)
    email = f"grpcio-{uuid.uuid4()}@example.org"
    users.Register(
        user_pb2.RegisterRequest(email=email, password="correct horse battery", name="Ada"),
        timeout=PATIENCE,
    )
    answer = users.LogIn(
        user_pb2.LogInRequest(email=email, password="correct horse battery"), timeout=PATIENCE
    )
    return (("authorization", f"Bearer {answer.token}"),)


def fill_cart(channel, me):
    products = product_pb2_grpc.ProductServiceStub(channel)
    request = product_pb2.AddToCartRequest(product_id="bankers-lamp", quantity=1)
    products.AddToCart(request, metadata=me, timeout=PATIENCE)


def order(card="4242424242424242"):
    return order_pb2.PlaceRequest(
        idempotency_key=str(uuid.uuid4()),
        card=order_pb2.Card(number=card, expiry="12/34", cvc="123"),
        address=order_pb2.Address(
            name="Ada", street="Weg 1", city="Ort", postal_code="10115", country="DE"
        ),
    )


def refusal(call, *args, **kwargs):
    """The error that a call must end in."""
    try:
        answer = call(*args, **kwargs)
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"answered with {answer}")


def unary():
    with gateway() as channel:
        products = product_pb2_grpc.ProductServiceStub(channel)
        found = products.Search(product_pb2.SearchRequest(text="lamp"), timeout=PATIENCE).products
        assert found and all("lamp" in str(product).lower() for product in found), found
        assert all(product.price.minor_units > 0 for product in found), "64-bit numbers arrive"

        me = log_in(channel)
        users = user_pb2_grpc.UserServiceStub(channel)
        profile, call = users.GetProfile.with_call(
            user_pb2.GetProfileRequest(), metadata=me, timeout=PATIENCE
        )
        assert profile.profile.name == "Ada", profile
        assert call.code() == grpc.StatusCode.OK
        names = [name for name, _ in call.initial_metadata()]
        assert "x-request-id" in names, names
    # The service itself says the same as the gateway in front of it.
    with service("product") as channel:
        products = product_pb2_grpc.ProductServiceStub(channel)
        direct = products.Search(product_pb2.SearchRequest(text="lamp"), timeout=PATIENCE).products
        assert [p.id for p in direct] == [p.id for p in found]


def many_at_once():
    with gateway() as channel:
        products = product_pb2_grpc.ProductServiceStub(channel)
        calls = [
            products.Search.future(product_pb2.SearchRequest(text="lamp", limit=5), timeout=PATIENCE)
            for _ in range(200)
        ]
        assert all(len(call.result().products) == 5 for call in calls)


def compressed():
    with gateway() as channel:
        products = product_pb2_grpc.ProductServiceStub(channel)
        answer = products.List(
            product_pb2.ListRequest(limit=100), compression=grpc.Compression.Gzip, timeout=PATIENCE
        )
        assert len(answer.products) == 100


def server_streaming():
    with gateway() as channel:
        me = log_in(channel)
        fill_cart(channel, me)
        orders = order_pb2_grpc.OrderServiceStub(channel)
        placing = orders.Place.future(order(), metadata=me, timeout=PATIENCE)
        # The states come while the order is being worked on, not in one piece at the end.
        order_id = None
        deadline = time.monotonic() + PATIENCE
        while order_id is None and time.monotonic() < deadline:
            for known in orders.List(order_pb2.ListRequest(), metadata=me, timeout=PATIENCE).orders:
                order_id = known.order_id
        stream = orders.Watch(
            order_pb2.WatchRequest(order_id=order_id, from_start=True), metadata=me, timeout=PATIENCE
        )
        first = next(stream)
        assert not placing.done(), "the first state comes before the last"
        states = [first.state] + [message.state for message in stream]
        assert stream.code() == grpc.StatusCode.OK
        assert states[0] == order_pb2.ORDER_STATE_PLACED, states
        assert states[-1] == order_pb2.ORDER_STATE_CONFIRMED, states
        assert states == sorted(states), states
        assert placing.result().order.order_id == order_id


def cancelled_stream():
    with gateway() as channel:
        me = log_in(channel)
        fill_cart(channel, me)
        orders = order_pb2_grpc.OrderServiceStub(channel)
        placing = orders.Place.future(order(), metadata=me, timeout=PATIENCE)
        known = []
        deadline = time.monotonic() + PATIENCE
        while not known and time.monotonic() < deadline:
            known = orders.List(order_pb2.ListRequest(), metadata=me, timeout=PATIENCE).orders
        stream = orders.Watch(
            order_pb2.WatchRequest(order_id=known[0].order_id), metadata=me, timeout=PATIENCE
        )
        next(stream)
        stream.cancel()
        error = refusal(lambda: list(stream))
        assert error.code() == grpc.StatusCode.CANCELLED, error
        assert placing.result().order.state == order_pb2.ORDER_STATE_CONFIRMED


def deadline():
    with gateway() as channel:
        me = log_in(channel)
        fill_cart(channel, me)
        orders = order_pb2_grpc.OrderServiceStub(channel)
        # The slow card keeps the processor busy for a minute, and the gateway waits for a quarter of one.
        started = time.monotonic()
        error = refusal(orders.Place, order("4000000000000077"), metadata=me, timeout=0.5)
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
        assert time.monotonic() - started < 12, "the limit is kept"
        # The channel is fine afterwards.
        orders.List(order_pb2.ListRequest(), metadata=me, timeout=PATIENCE)


def details_of(error, kind):
    status = rpc_status.from_call(error)
    assert status is not None, "no grpc-status-details-bin"
    assert status.code == error.code().value[0] and status.message == error.details()
    for detail in status.details:
        if detail.Is(kind.DESCRIPTOR):
            found = kind()
            detail.Unpack(found)
            return found
    raise AssertionError(f"no {kind.DESCRIPTOR.full_name} in {status}")


def errors_with_details():
    with gateway() as channel:
        users = user_pb2_grpc.UserServiceStub(channel)
        bad = user_pb2.RegisterRequest(email="none", password="x", name="Ada")
        error = refusal(users.Register, bad, timeout=PATIENCE)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error
        violations = details_of(error, error_details_pb2.BadRequest).field_violations
        assert {"email", "password"} <= {v.field for v in violations}, violations
        assert all(v.description for v in violations), violations

        me = log_in(channel)
        fill_cart(channel, me)
        orders = order_pb2_grpc.OrderServiceStub(channel)
        error = refusal(orders.Place, order("4000000000000002"), metadata=me, timeout=PATIENCE)
        assert error.code() == grpc.StatusCode.FAILED_PRECONDITION, error
        info = details_of(error, error_details_pb2.ErrorInfo)
        assert info.reason == "CARD_DECLINED", info
        assert info.metadata["decline_code"] == "card_declined", info
        assert info.metadata["order_id"], info


def codes():
    with gateway() as channel:
        products = product_pb2_grpc.ProductServiceStub(channel)
        error = refusal(products.Get, product_pb2.GetRequest(id="none"), timeout=PATIENCE)
        assert error.code() == grpc.StatusCode.NOT_FOUND, error
        users = user_pb2_grpc.UserServiceStub(channel)
        error = refusal(users.GetProfile, user_pb2.GetProfileRequest(), timeout=PATIENCE)
        assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
        hidden = payment_pb2_grpc.PaymentServiceStub(channel)
        error = refusal(hidden.Get, payment_pb2.GetRequest(payment_id="x"), timeout=PATIENCE)
        assert error.code() == grpc.StatusCode.UNIMPLEMENTED, error
        large = product_pb2.SearchRequest(text="x" * (5 << 20))
        error = refusal(products.Search, large, timeout=PATIENCE)
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
        products.Search(product_pb2.SearchRequest(), timeout=PATIENCE)


def bidirectional():
    """Reflection is the bidirectional stream that every service has."""
    with service("order") as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        questions = Questions()
        answers = stub.ServerReflectionInfo(questions, timeout=PATIENCE)
        # Each question is asked when the answer to the one before it is there: both directions are open at once.
        questions.ask(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = [s.name for s in next(answers).list_services_response.service]
        assert "shop.order.v1.OrderService" in listed, listed
        questions.ask(
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="shop.order.v1.OrderService")
        )
        files = next(answers).file_descriptor_response.file_descriptor_proto
        assert any(b"PlaceRequest" in file for file in files)
        questions.ask(reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.Such"))
        assert next(answers).error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
        questions.end()
        assert list(answers) == []
        assert answers.code() == grpc.StatusCode.OK


class Questions:
    """An iterator that waits for what it is given."""

    def __init__(self):
        import queue

        self.queue = queue.Queue()

    def ask(self, question):
        self.queue.put(question)

    def end(self):
        self.queue.put(None)

    def __iter__(self):
        return self

    def __next__(self):
        question = self.queue.get(timeout=PATIENCE)
        if question is None:
            raise StopIteration
        return question


def health():
    serving = health_pb2.HealthCheckResponse.SERVING
    for channel in [gateway(), service("user"), service("payment")]:
        with channel:
            stub = health_pb2_grpc.HealthStub(channel)
            assert stub.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE).status == serving
            watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
            assert next(watch).status == serving
            watch.cancel()
    with service("user") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        named = health_pb2.HealthCheckRequest(service="shop.user.v1.UserService")
        assert stub.Check(named, timeout=PATIENCE).status == serving
        unknown = health_pb2.HealthCheckRequest(service="no.Such")
        error = refusal(stub.Check, unknown, timeout=PATIENCE)
        assert error.code() == grpc.StatusCode.NOT_FOUND, error


CASES = [
    unary,
    many_at_once,
    compressed,
    server_streaming,
    cancelled_stream,
    deadline,
    errors_with_details,
    codes,
    bidirectional,
    health,
]

if __name__ == "__main__":
    case = {case.__name__: case for case in CASES}[sys.argv[1]]
    case()
    print(f"passed: {case.__name__}")
