#!/bin/sh
# Buys a lamp in the shop, and fails to buy another one, with curl and a POSIX shell alone.
#
#     formic up examples/shop          # in one terminal
#     examples/shop/buy.sh [URL]       # in another; the gateway is http://127.0.0.1:8080 unless given
#
# Prints the story, and stops with the answer and a status of 1 where it does not go as it should.
set -u

base=${1:-${SHOP_URL:-http://127.0.0.1:8080}}
base=${base%/}
# The services can also be called without a gateway.
user_url=${SHOP_USER_URL:-$base}
product_url=${SHOP_PRODUCT_URL:-$base}
order_url=${SHOP_ORDER_URL:-$base}

token=
status=
body=

say() { printf '%s\n' "$*"; }
step() { printf '\n%s\n' "$*"; }

# fail WHAT: tells what went wrong, with the answer, and ends.
fail() {
    printf '\nThis did not work: %s\n' "$1" >&2
    printf 'status: %s\nanswer: %s\n' "${status:-none}" "${body:-none}" >&2
    exit 1
}

# call URL METHOD JSON: makes a call; leaves $status and $body.
call() {
    answer=$(curl -sS --max-time 60 -w '\n%{http_code}' \
        -H 'content-type: application/json' -H 'connect-timeout-ms: 30000' \
        -H "authorization: Bearer $token" --data-binary "$3" "$1/$2" 2>&1) || {
        status=none body=$answer
        fail "calling $1/$2"
    }
    status=$(printf '%s\n' "$answer" | sed -n '$p')
    body=$(printf '%s\n' "$answer" | sed '$d')
}

# ask WHAT URL METHOD JSON: a call that must succeed.
ask() {
    call "$2" "$3" "$4"
    [ "$status" = 200 ] || fail "$1"
}

# every NAME: the values of this field in $body, one a line, in order.
every() {
    printf '%s\n' "$body" | tr ',{}[]' '\n\n\n\n\n' |
        sed -n 's/^ *"'"$1"'" *: *"\{0,1\}\([^"]*\)"\{0,1\} *$/\1/p'
}

# first NAME: the first of them.
first() { every "$1" | sed -n '1p'; }

# money CENTS CURRENCY
money() { printf '%d.%02d %s' "$(($1 / 100))" "$(($1 % 100))" "$2"; }

# plain STATE: ORDER_STATE_STOCK_RESERVED becomes "stock reserved".
plain() { printf '%s' "$1" | sed -e 's/^[A-Z]*_STATE_//' | tr 'A-Z_' 'a-z '; }

# random: sixteen hexadecimal digits.
random() { od -An -N8 -tx1 /dev/urandom | tr -d ' \n'; }

# watch ORDER: prints the states of an order, from the first one until the order is at rest. A stream of the Connect
# protocol: each message, ours too, comes after a byte of flags and four bytes of length.
watch() {
    json='{"orderId":"'"$1"'","fromStart":true}'
    body=$({
        printf '\000\000\000\000'
        # Not a format but one byte, by its octal number.
        printf "\\$(printf '%03o' "${#json}")"
        printf '%s' "$json"
    } | {
        curl -sS -N --max-time 60 -H 'content-type: application/connect+json' -H 'connect-protocol-version: 1' \
            -H "authorization: Bearer $token" --data-binary @- \
            "$order_url/shop.order.v1.OrderService/Watch" 2>&1 || printf '\n{"error":"curl ended with %s"}\n' "$?"
    } | LC_ALL=C tr '\000-\037' '\n' | LC_ALL=C sed -n 's/^.\{0,1\}\({"\)/\1/p')
    status=stream
    case $body in
    *'"error"'* | *'"code"'*) fail "watching the order" ;;
    *'"sequence"'*) ;;
    *) fail "watching the order" ;;
    esac
    notes=$(every note)
    states=$(every state)
    printf '%s\n' "$notes" | sed 's/^/    /'
    last_state=$(printf '%s\n' "$states" | sed -n '$p')
}

# place KEY CARD: asks for an order; leaves $status and $body.
place() {
    call "$order_url" shop.order.v1.OrderService/Place '{
        "idempotencyKey": "'"$1"'",
        "card": {"number": "'"$2"'", "expiry": "12/34", "cvc": "123"},
        "address": {"name": "Ada Buyer", "street": "Lichtweg 1", "city": "Berlin", "postalCode": "10115", "country": "DE"}
    }'
}

add_to_cart() {
    ask "adding to the cart" "$product_url" shop.product.v1.ProductService/AddToCart \
        '{"productId":"'"$1"'","quantity":'"$2"'}'
}

available() {
    ask "asking for the product" "$product_url" shop.product.v1.ProductService/Get '{"id":"'"$1"'"}'
    # JSON leaves a zero out.
    number=$(first available)
    printf '%s' "${number:-0}"
}

command -v curl >/dev/null 2>&1 || {
    say "buy.sh needs curl." >&2
    exit 1
}

say "Shopping at $base"

email="buyer-$(random)@example.com"
password=$(random)
step "1. A new customer registers: $email"
ask "registering" "$user_url" shop.user.v1.UserService/Register \
    '{"email":"'"$email"'","password":"'"$password"'","name":"Ada Buyer"}'
say "    the shop knows us as $(first userId)"

step "2. Logging in"
ask "logging in" "$user_url" shop.user.v1.UserService/LogIn '{"email":"'"$email"'","password":"'"$password"'"}'
token=$(first token)
[ -n "$token" ] || fail "logging in: there is no token"
say "    we have a signed token"

step "3. Looking for a lamp"
ask "searching" "$product_url" shop.product.v1.ProductService/Search '{"text":"lamp","limit":50}'
product=
for id in $(every id); do
    stock=$(available "$id") || exit 1
    # Two to buy, and one that is not.
    [ "$stock" -ge 3 ] && product=$id && break
done
[ -n "$product" ] || fail "searching: there are no lamps left"
ask "asking for the product" "$product_url" shop.product.v1.ProductService/Get '{"id":"'"$product"'"}'
product_name=$(first name)
say "    $product_name, $(money "$(first minorUnits)" "$(first currency)"), $stock in stock"

step "4. Two of them go into the cart"
add_to_cart "$product" 2
ask "looking into the cart" "$product_url" shop.product.v1.ProductService/ViewCart '{}'
[ "$(first quantity)" = 2 ] || fail "looking into the cart: there are not two"
# The last amount of a cart is its total.
total=$(every minorUnits | sed -n '$p')
say "    in the cart: 2 x $product_name, together $(money "$total" "$(first currency)")"

key="buy-$(random)"
step "5. Placing the order"
place "$key" 4242424242424242
[ "$status" = 200 ] || fail "placing the order"
order=$(first orderId)
[ -n "$order" ] || fail "placing the order: it has no id"
say "    order $order is $(plain "$(first state)")"

step "6. Placing it again, as after a lost answer: the same key gives the same order"
place "$key" 4242424242424242
[ "$status" = 200 ] || fail "placing the order again"
[ "$(first orderId)" = "$order" ] || fail "placing the order again: it is another one"
say "    still order $order, and only one"

step "7. How it came about"
watch "$order"
[ "$last_state" = ORDER_STATE_CONFIRMED ] || fail "watching: the order is not confirmed"
left=$(available "$product") || exit 1
[ "$left" = "$((stock - 2))" ] || say "    (others are shopping too: $stock were there, $left are)"
ask "looking into the cart" "$product_url" shop.product.v1.ProductService/ViewCart '{}'
[ -z "$(first quantity)" ] || fail "looking into the cart: it is not empty"
say "    the cart is empty again"

step "8. Where is the parcel?"
ask "tracking the parcel" "$order_url" shop.order.v1.OrderService/Track '{"orderId":"'"$order"'"}'
say "    it is $(plain "$(every state | sed -n '$p')")"

step "9. One more, with a card that will be declined"
before=$(available "$product") || exit 1
add_to_cart "$product" 1
place "buy-$(random)" 4000000000000002
[ "$status" = 400 ] || fail "placing an order with a bad card: it should have been refused"
[ "$(first code)" = failed_precondition ] || fail "placing an order with a bad card: refused for another reason"
say "    refused: $(first message)"
ask "listing the orders" "$order_url" shop.order.v1.OrderService/List '{"limit":1}'
undone=$(first orderId)
watch "$undone"
[ "$last_state" = ORDER_STATE_UNDONE ] || fail "watching: the order is not undone"
after=$(available "$product") || exit 1
[ "$after" = "$before" ] || say "    (others are shopping too: $before were there, $after are)"
say "    $after in stock, as before; no money was taken"

step "Done: one order confirmed, one undone, none half."
