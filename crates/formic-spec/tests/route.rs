//! `[route.…]`: what is read, and each fault with its place.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use formic_spec::{Fault, FaultKind, Manifest, RoutePath};

const HEAD: &str = "[app]\nname = 'a'\n[gateway]\n[service.reports]\ncargo = 'r'\n";

fn read(routes: &str) -> Manifest {
    let source = format!("{HEAD}{routes}");
    Manifest::parse(&source, "formic.toml").unwrap_or_else(|faults| panic!("{source}\n{faults}"))
}

fn faults(routes: &str) -> Vec<Fault> {
    Manifest::parse(&format!("{HEAD}{routes}"), "formic.toml").unwrap_err().faults
}

#[test]
fn a_route_is_read_with_its_defaults() {
    let manifest = read("[route.'/reports/']\nservice = 'reports'");
    let [route] = &manifest.routes[..] else { panic!("{:?}", manifest.routes) };
    assert_eq!((route.name.as_str(), route.service.as_str()), ("/reports/", "reports"));
    assert_eq!(route.path, RoutePath::Prefix("/reports".into()));
    assert_eq!((route.host.as_deref(), route.strip, route.max_body), (None, false, None));
    assert!(route.methods.is_empty() && route.headers.is_empty());
    assert_eq!(route.timeout.get().as_secs(), 15);

    let manifest = read(
        "[route.beta]\nservice = 'reports'\npath = '/r/2026'\nhost = '*.Shop.example'\nmethod = ['GET', 'HEAD']\n\
         header = { X-User = 'beta', x-any = '*' }\ntimeout = '1m'\nmax_body = '1GiB'\n\
         [route.site]\nservice = 'reports'\nhost = 'shop.example'\nmethod = 'GET'\n\
         [route.cut]\nservice = 'reports'\nprefix = '/cut'\nstrip = true",
    );
    let [beta, site, cut] = &manifest.routes[..] else { panic!("{:?}", manifest.routes) };
    assert_eq!(beta.path, RoutePath::Exact("/r/2026".into()));
    assert_eq!(beta.host.as_deref(), Some("*.shop.example"));
    assert_eq!(beta.methods, ["GET", "HEAD"]);
    assert_eq!(beta.headers.get("x-user").map(String::as_str), Some("beta"));
    assert_eq!(beta.max_body.map(|size| size.bytes()), Some(1 << 30));
    assert_eq!(site.path, RoutePath::Prefix("/".into()), "a host alone is for all of it");
    assert!(cut.strip);
}

#[test]
fn each_fault_of_a_route() {
    use FaultKind::{Conflict, InvalidName, InvalidValue, Missing, UnknownKey, UnknownService, WrongType};
    // Lines, then line (from the first route on), column, kind and a part of the message or the help.
    let table: &[(&str, usize, usize, FaultKind, &str)] = &[
        ("[route.'/x']", 1, 8, Missing, "leads to no service"),
        ("[route.'/x']\nservice = 'reprots'", 2, 11, UnknownService, "did you mean `reports`?"),
        ("[route.x]\nservice = 'reports'", 1, 8, Missing, "has no path"),
        ("[route.X]\nservice = 'reports'\npath = '/x'", 1, 8, InvalidName, "perhaps `x`"),
        ("[route]\nx = 3", 2, 5, WrongType, "must be a table"),
        ("[route.'/x']\nservice = 'reports'\npath = '/y'", 3, 8, Conflict, "has two paths"),
        ("[route.x]\nservice = 'reports'\npath = '/y'\nprefix = '/z'", 3, 8, Conflict, "two paths"),
        ("[route.x]\nservice = 'reports'\nprefix = 'y'", 3, 10, InvalidValue, "does not begin with `/`"),
        ("[route.'/x?y=1']\nservice = 'reports'", 1, 8, InvalidName, "a query"),
        ("[route.'/x//y']\nservice = 'reports'", 1, 8, InvalidName, "an empty part"),
        ("[route.'/x/../y']\nservice = 'reports'", 1, 8, InvalidName, "`..`"),
        ("[route.'/ä']\nservice = 'reports'", 1, 8, InvalidName, "%20"),
        ("[route.'/x']\nservice = 'reports'\nhost = 'a:80'", 3, 8, InvalidValue, "without a port"),
        ("[route.'/x']\nservice = 'reports'\nmethod = 'get'", 3, 10, InvalidValue, "in capitals"),
        ("[route.'/x']\nservice = 'reports'\nmethod = ['GET', 'GET']", 3, 18, InvalidValue, "twice"),
        ("[route.'/x']\nservice = 'reports'\nmethod = 3", 3, 10, WrongType, "array of strings"),
        ("[route.'/x']\nservice = 'reports'\nheader = { 'a b' = 'x' }", 3, 12, InvalidName, "header"),
        ("[route.'/x']\nservice = 'reports'\nheader = { a = 1 }", 3, 16, WrongType, "must be a string"),
        ("[route.'/x']\nservice = 'reports'\nstrip = 'true'", 3, 9, WrongType, "without quotes: true"),
        ("[route.x]\nservice = 'reports'\npath = '/x'\nstrip = true", 4, 9, Conflict, "takes away a prefix"),
        ("[route.'/x']\nservice = 'reports'\ntimeout = '0s'", 3, 11, InvalidValue, "cannot be zero"),
        ("[route.'/x']\nservice = 'reports'\nmax_body = '1'", 3, 12, InvalidValue, "has no unit"),
        ("[route.'/x']\nservice = 'reports'\nservices = 'x'", 3, 1, UnknownKey, "did you mean `service`?"),
        ("[routes.'/x']\nservice = 'reports'", 1, 2, UnknownKey, "did you mean `route`?"),
    ];
    for (lines, line, column, kind, part) in table {
        let faults = faults(lines);
        let [fault] = faults.as_slice() else { panic!("{lines}: {faults:#?}") };
        assert_eq!((fault.line, fault.column, fault.kind), (line + 5, *column, *kind), "{lines}: {fault:#?}");
        let text = format!("{}\n{}", fault.message, fault.help.clone().unwrap_or_default());
        assert!(text.contains(part), "{lines}: {text}");
    }
}

#[test]
fn routes_that_nothing_tells_apart_are_refused() {
    let pair = |first: &str, second: &str| {
        format!(
            "[route.a]\nservice = 'reports'\nprefix = '/x'\n{first}\n[route.b]\nservice = 'reports'\nprefix = '/x'\n{second}\n"
        )
    };
    for (first, second) in [
        ("", ""),
        ("method = 'GET'", "method = ['HEAD', 'GET']"),
        ("host = 'a.b'", "host = 'A.b'"),
        ("header = { x = '1' }", "header = { X = '1' }"),
    ] {
        let faults = faults(&pair(first, second));
        let [fault] = faults.as_slice() else { panic!("{first} {second}: {faults:#?}") };
        assert_eq!((fault.line, fault.kind), (10, FaultKind::Conflict), "{fault:#?}");
        assert!(fault.message.contains("`b` and `a`"), "{}", fault.message);
    }
    for (first, second) in [
        ("", "method = 'GET'"),
        ("method = 'GET'", "method = 'POST'"),
        ("", "host = 'a.b'"),
        ("header = { x = '1' }", "header = { x = '2' }"),
    ] {
        assert_eq!(read(&pair(first, second)).routes.len(), 2, "{first} {second}");
    }
}

#[test]
fn routes_need_a_gateway_and_every_fault_is_said() {
    let source = "[app]\nname = 'a'\n[service.reports]\ncargo = 'r'\n[route.'/x']\nservice = 'reports'";
    let faults = Manifest::parse(source, "formic.toml").unwrap_err().faults;
    let [fault] = faults.as_slice() else { panic!("{faults:#?}") };
    assert_eq!((fault.line, fault.column, fault.kind), (5, 8, FaultKind::Missing));
    assert!(fault.message.contains("no [gateway]"), "{}", fault.message);

    let many = self::faults(
        "[route.'/x']\nservice = 'nobody'\nmethod = 'get'\n[route.y]\nservice = 'reports'\n[route.'z']\nservcie = 'reports'",
    );
    let lines: Vec<_> = many.iter().map(|fault| fault.line).collect();
    assert_eq!(lines, [7, 8, 9, 11, 11, 12], "{many:#?}");
}
