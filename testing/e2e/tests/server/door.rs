//! The API over TCP: who is let in, who is not, what it does not do, and that it outlives the brain.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use formic_e2e::{
    Ended, Folder, Gateway, Managed, Manifest, Tool, formic_in, free_port, wait_for, wait_until,
};
use formic_testing::skipped;

const SOON: Duration = Duration::from_secs(60);

const IDLE: &str = r#"
[app]
name = "kept"
[service.alpha]
command = ["sh", "-c", "exec sleep 600"]
replicas = 2
health = { ready = "none" }
update = { min_ready = "0s", keep_old = "0s" }
"#;

/// A server with a door, and a folder for those who come to it.
struct Doored {
    managed: Managed,
    visitor: Folder,
    port: u16,
}

impl Doored {
    /// A server that was started again with these arguments; `{}` among them is its visitors' folder.
    fn new(args: &[&str], prepare: impl FnOnce(&Folder)) -> Self {
        let doored = Self {
            managed: Managed::new(&Manifest::of(IDLE), &[]),
            visitor: Folder::new("visitor"),
            port: free_port(),
        };
        prepare(&doored.visitor);
        doored.managed.formic(&["server", "stop"]).says(0, &[]);
        doored.serve(args);
        doored
    }

    fn serve(&self, args: &[&str]) {
        let (listen, folder) =
            (format!("127.0.0.1:{}", self.port), self.visitor.path().display().to_string());
        let args: Vec<String> = args.iter().map(|arg| arg.replace("{}", &folder)).collect();
        let args: Vec<&str> =
            ["--listen", &listen].into_iter().chain(args.iter().map(String::as_str)).collect();
        self.managed.try_serve(&args).says(0, &["keeper"]);
        wait_until("the port", SOON, || TcpStream::connect(&listen).is_ok());
    }

    /// A command from elsewhere: in a folder without an application, with nothing but the address.
    fn ask(&self, url: &str, args: &[&str]) -> Ended {
        let tool = formic_in(self.visitor.path(), args).env("FORMIC_SERVER", url);
        tool.env_remove("FORMIC_TOKEN_FILE").run()
    }

    fn plain(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn secure(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

/// A token of this name in the server's file, and in a file of its own.
fn token(folder: &Folder, name: &str) -> (String, String) {
    let file = folder.path().join("tokens");
    let made = formic_in(folder.path(), &["server", "token", file.to_str().unwrap(), "--name", name]).good();
    let secret = made.stdout.trim().to_owned();
    let own = private(folder, &format!("{name}.token"), &made.stdout);
    (secret, own.display().to_string())
}

fn private(folder: &Folder, name: &str, content: &str) -> PathBuf {
    let path = folder.write(name, content);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

#[test]
fn who_has_a_token_is_let_in_and_named_and_nobody_else_is() {
    let mut secrets = None;
    let doored = Doored::new(&["--token-file", "{}/tokens"], |folder| {
        secrets = Some([token(folder, "ci"), token(folder, "laptop")]);
    });
    let [(ci, ci_file), (_, laptop_file)] = secrets.unwrap();
    let url = doored.plain();
    let with = |file: &str, args: &[&str]| doored.ask(&url, &[args, &["--token-file", file]].concat());

    // The whole way: a manifest of this folder, changes, and who made them.
    doored.visitor.write("formic.toml", IDLE);
    with(&ci_file, &["apply", "--wait"]).says(0, &["runs and answers"]);
    with(&laptop_file, &["scale", "alpha=3", "--wait"]).says(0, &[]);
    doored.managed.formic(&["scale", "alpha=1"]).says(0, &[]);
    let history = with(&ci_file, &["history", "--json"]).stdout;
    let own = format!("scale alpha=1 (uid {})", uid());
    for cause in ["apply (token ci)", "scale alpha=3 (token laptop)", &own] {
        assert!(history.contains(cause), "{cause} in {history}");
    }
    let events = with(&ci_file, &["events", "-n", "0"]).stdout;
    assert!(events.contains("by scale alpha=3 (token laptop)"), "{events}");
    assert!(
        with(&ci_file, &["metrics"])
            .stdout
            .contains("formic_service_wanted{app=\"kept\",service=\"alpha\"} 1")
    );
    assert!(with(&ci_file, &["services", "--json"]).code == Some(0));

    // No token, a wrong one, one that others can read, a server's whole file.
    doored.ask(&url, &["status"]).says(1, &["asks for a token", "--token-file"]);
    let wrong = private(&doored.visitor, "wrong", &"0123456789abcdef".repeat(3));
    with(wrong.to_str().unwrap(), &["status"]).says(1, &["does not know this token"]);
    let open = doored.visitor.write("open", &ci);
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    with(open.to_str().unwrap(), &["status"]).says(1, &["can be read by others", "chmod 600"]);
    with(doored.visitor.path().join("tokens").to_str().unwrap(), &["status"]).says(1, &["has 2 tokens"]);
    // Neither pages nor reflection are for everybody.
    let door = Gateway { authority: format!("127.0.0.1:{}", doored.port) };
    for path in
        ["/metrics", "/healthz", "/grpc.health.v1.Health/Check", "/formic.registry.v1.RegistryService/List"]
    {
        assert_eq!(
            door.send("POST", path, &[("Content-Type", "application/json")], b"{}").unwrap().status,
            401,
            "{path}"
        );
        assert_eq!(door.send("GET", path, &[], b"").unwrap().status, 401, "{path}");
    }
    // Nor is there a way past the token by the multiplexed wire, which the guard does not know.
    let mut io = TcpStream::connect(&door.authority).unwrap();
    io.set_read_timeout(Some(SOON)).unwrap();
    io.write_all(b"\xf0formic\n\x01\x01\x00").unwrap();
    let mut said = [0; 13];
    io.read_exact(&mut said).unwrap();
    assert_eq!(said, *b"HTTP/1.1 400 ", "{}", said.escape_ascii());

    // What makes sense on the server's machine alone.
    doored
        .ask(&url, &["exec", "--token-file", &ci_file, "alpha", "--", "true"])
        .says(1, &["not done over TCP"]);
    with(&ci_file, &["server", "stop"]).says(1, &["not done over TCP"]);
    let bearer = format!("Bearer {ci}");
    let post = |method: &str, body: &str| {
        let headers = [("Content-Type", "application/json"), ("Authorization", bearer.as_str())];
        door.send("POST", &format!("/formic.{method}"), &headers, body.as_bytes()).unwrap()
    };
    for (method, body) in [
        ("control.v1.ServerService/Detach", "{}"),
        ("control.v1.ServerService/Replace", r#"{"program":"/bin/true","part":"brain"}"#),
        ("control.v1.TrafficService/Report", "{}"),
        ("registry.v1.RegistryService/Deregister", r#"{"instanceId":"alpha-1"}"#),
    ] {
        let answer = post(method, body);
        assert!(answer.status >= 400 && answer.text().contains("over TCP"), "{method}: {}", answer.text());
    }
    let apply = serde_json::json!({ "manifest": IDLE, "artifacts": { "x": "/bin/true" } }).to_string();
    let answer = post("control.v1.DeployService/Apply", &apply);
    assert!(answer.text().contains("not done over TCP"), "{}", answer.text());

    // A line that is taken out is a token that is revoked, without a restart.
    let tokens = std::fs::read_to_string(doored.visitor.path().join("tokens")).unwrap();
    let left: String =
        tokens.lines().filter(|line| !line.starts_with("ci ")).map(|line| format!("{line}\n")).collect();
    std::fs::write(doored.visitor.path().join("tokens"), left).unwrap();
    with(&ci_file, &["status"]).says(1, &["does not know this token"]);
    with(&laptop_file, &["status"]).says(0, &[]);
    let log = doored.managed.log();
    assert!(log.contains("refused at the API") && !log.contains(&ci), "{log}");
}

#[test]
fn the_ports_stay_open_from_one_brain_to_the_next() {
    let mut file = String::new();
    let metrics = free_port();
    let listen = format!("127.0.0.1:{metrics}");
    let doored = Doored::new(&["--token-file", "{}/tokens", "--metrics", &listen], |folder| {
        file = token(folder, "ci").1
    });
    doored.managed.formic(&["apply", "--wait"]).says(0, &[]);
    let scraped = Gateway { authority: listen };
    let wanted = || {
        let page = scraped.send("GET", "/metrics", &[], b"").unwrap().text();
        page.contains("formic_instance_state{")
            && page.contains("formic_service_wanted{app=\"kept\",service=\"alpha\"} 2")
    };
    assert!(wanted());
    for _ in 0..3 {
        let brain = doored.managed.brain();
        doored.managed.kill(brain);
        // At once: nobody may be there yet, and whoever comes waits for the next one.
        let status = doored.ask(&doored.plain(), &["status", "--token-file", &file, "--json"]);
        assert_eq!(status.code, Some(0), "{}", status.stderr);
        assert_ne!(status.json()["pid"], brain);
        assert!(wanted());
    }
    // A server that is started without them closes them.
    doored.managed.formic(&["server", "stop"]).says(0, &[]);
    doored.managed.serve();
    wait_until("the ports to be closed", SOON, || {
        [doored.port, metrics].iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_err())
    });
}

/// A connection from another address of this machine.
fn from_elsewhere(port: u16) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
    // Not for the programs that other tests start meanwhile.
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2), 0))?;
    connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    Ok(socket.into())
}

#[test]
fn a_flood_of_wrong_tokens_keeps_nobody_out_who_has_a_right_one() {
    let (mut file, mut secret) = (String::new(), String::new());
    let doored = Doored::new(&["--token-file", "{}/tokens"], |folder| (secret, file) = token(folder, "ci"));
    let door = Gateway { authority: format!("127.0.0.1:{}", doored.port) };
    let (unauthorized, busy, wrong) = (AtomicU32::new(0), AtomicU32::new(0), "ab12".repeat(16));
    let (shut, bearer) = (AtomicU32::new(0), format!("Bearer {wrong}"));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..48 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let headers = [("Authorization", bearer.as_str())];
                    // From an address of its own, for each has a share of the places. Connections that have ended and were
                    // not looked at yet count: one too many is shut.
                    let answer = from_elsewhere(doored.port)
                        .and_then(|stream| door.send_over(stream, "GET", "/metrics", &headers, b""));
                    let Ok(answer) = answer else {
                        shut.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    match answer.status {
                        401 => unauthorized.fetch_add(1, Ordering::Relaxed),
                        429 => busy.fetch_add(1, Ordering::Relaxed),
                        other => panic!("{other}"),
                    };
                }
            });
        }
        for _ in 0..5 {
            let status = doored.ask(&doored.plain(), &["status", "--token-file", &file]);
            assert_eq!(status.code, Some(0), "{}", status.stderr);
        }
    });
    let (unauthorized, busy, shut) = (unauthorized.into_inner(), busy.into_inner(), shut.into_inner());
    assert!(unauthorized > 0 && busy > 0, "{unauthorized} {busy}");
    assert_eq!(unauthorized + busy + shut, 480, "{unauthorized} {busy} {shut}");
    let log = doored.managed.log();
    let lines = log.lines().filter(|line| line.contains("refused at the API")).count();
    let took = begun.elapsed();
    assert!(lines > 0 && lines as u64 <= took.as_secs() + 2, "{lines} in {took:?}: one a second is told");
    assert!(!log.contains(&wrong) && !log.contains(&secret));
}

#[test]
fn no_server_opens_a_door_to_anybody() {
    let managed = Managed::new(&Manifest::of(IDLE), &[]);
    managed.formic(&["server", "stop"]).says(0, &[]);
    let visitor = Folder::new("visitor");
    let (_, file) = token(&visitor, "ci");
    let tokens = visitor.path().join("tokens").display().to_string();
    managed.try_serve(&["--listen", "127.0.0.1:0"]).says(2, &["--token-file"]);
    managed
        .try_serve(&["--listen", "0.0.0.0:0", "--token-file", &tokens])
        .says(1, &["for everybody to read", "--tls-cert", "tunnel"]);
    std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o644)).unwrap();
    managed.try_serve(&["--listen", "127.0.0.1:0", "--token-file", &tokens]).says(1, &["0644", "chmod 600"]);
    let weak = private(&visitor, "weak", "ci password");
    let weak = managed.try_serve(&["--listen", "127.0.0.1:0", "--token-file", weak.to_str().unwrap()]);
    weak.says(1, &["too short", "formic server token"]);
    assert!(!weak.stderr.contains("password"), "{}", weak.stderr);
    // A caller does not send it in the clear, either: 127.0.0.1 is the only plain way.
    let sent =
        formic_in(visitor.path(), &["status", "--server", "http://0.0.0.0:9", "--token-file", &file]).run();
    sent.says(3, &["for everybody to read"]);
    assert!(managed.try_status().is_none());
}

/// Keys and certificates of two authorities; nothing where there is no tool that makes them.
fn authorities(folder: &Path) -> bool {
    let run = |args: &[&str]| Tool::new("openssl").args(args).within(folder).good();
    if std::process::Command::new("openssl").arg("version").output().is_err() {
        return false;
    }
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    for (name, authority) in [("ca", "/CN=Tests"), ("other", "/CN=Others")] {
        let (own, certificate) = (format!("{name}.key"), format!("{name}.crt"));
        let what = ["-subj", authority, "-days", "2", "-keyout", &own, "-out", &certificate];
        let is = ["-addext", "basicConstraints=critical,CA:TRUE"];
        let _ = run(&[&["req", "-x509"], &key[..], &what, &is].concat());
    }
    for (name, authority, extensions) in [
        ("server", "ca", "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n"),
        ("anna", "ca", "subjectAltName=DNS:anna\nextendedKeyUsage=clientAuth\n"),
        ("eve", "other", "subjectAltName=DNS:eve\nextendedKeyUsage=clientAuth\n"),
    ] {
        std::fs::write(folder.join("ext"), extensions).unwrap();
        let (own, request, certificate) =
            (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
        let subject = format!("/CN={name}");
        let _ = run(&[&["req"], &key[..], &["-subj", &subject, "-keyout", &own, "-out", &request]].concat());
        let (ca, ca_key) = (format!("{authority}.crt"), format!("{authority}.key"));
        let sign = ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
        let _ = run(&[&sign[..], &["-days", "2", "-extfile", "ext", "-out", &certificate]].concat());
    }
    true
}

#[test]
fn a_certificate_of_the_right_authority_opens_and_no_other_does() {
    let mut made = false;
    let tls = ["--tls-cert", "{}/server.crt", "--tls-key", "{}/server.key", "--tls-client-ca", "{}/ca.crt"];
    let probe = Folder::new("tls");
    if !authorities(probe.path()) {
        skipped("a_certificate_of_the_right_authority_opens_and_no_other_does", "there is no openssl here");
        return;
    }
    let mut file = String::new();
    let doored = Doored::new(&tls, |folder| {
        made = authorities(folder.path());
        file = token(folder, "ci").1;
    });
    assert!(made);
    let ask = |url: &str, ca: &str, who: Option<&str>, args: &[&str]| {
        let mut args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        args.extend(["--tls-ca".into(), ca.into()]);
        if let Some(who) = who {
            args.extend([
                "--tls-cert".into(),
                format!("{who}.crt"),
                "--tls-key".into(),
                format!("{who}.key"),
            ]);
        }
        doored.ask(url, &args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let url = doored.secure();
    doored.managed.formic(&["apply", "--wait"]).says(0, &[]);
    ask(&url, "ca.crt", Some("anna"), &["scale", "alpha=3"]).says(0, &[]);
    let history = ask(&url, "ca.crt", Some("anna"), &["history"]);
    assert!(history.stdout.contains("scale alpha=3 (certificate anna)"), "{}", history.stdout);
    ask(&url, "ca.crt", None, &["status"]).says(3, &["asks for a certificate"]);
    ask(&url, "ca.crt", Some("eve"), &["status"]).says(3, &["does not take this certificate"]);
    ask(&url, "other.crt", Some("anna"), &["status"]).says(3, &["another authority"]);
    ask(&url, "ca.crt", Some("server"), &["status"]).says(3, &["cannot talk to"]);
    ask(&doored.plain(), "ca.crt", None, &["status"]).says(3, &["cannot talk to"]);
    let by_name = format!("https://localhost:{}", doored.port);
    ask(&by_name, "ca.crt", Some("anna"), &["status"]).says(3, &["for another name"]);
    doored.ask(&url, &["status"]).says(1, &["--tls-ca"]);

    // TLS with a token: on every address, and both are named where both are asked for.
    doored.managed.formic(&["server", "stop"]).says(0, &[]);
    doored.serve(&["--tls-cert", "{}/server.crt", "--tls-key", "{}/server.key", "--token-file", "{}/tokens"]);
    ask(&url, "ca.crt", None, &["status", "--token-file", &file]).says(0, &[]);
    ask(&url, "ca.crt", None, &["status"]).says(1, &["asks for a token"]);
    doored.managed.formic(&["server", "stop"]).says(0, &[]);
    doored.serve(&[&tls[..], &["--token-file", "{}/tokens"]].concat());
    ask(&url, "ca.crt", Some("anna"), &["scale", "alpha=1", "--token-file", &file]).says(0, &[]);
    ask(&url, "ca.crt", Some("anna"), &["status"]).says(1, &["asks for a token"]);
    ask(&url, "ca.crt", None, &["status", "--token-file", &file]).says(3, &["asks for a certificate"]);
    let history = doored.managed.formic(&["history"]);
    assert!(history.stdout.contains("(token ci, certificate anna)"), "{}", history.stdout);
    wait_for("the log", SOON, || doored.managed.log().contains("by\":\"certificate anna").then_some(()));
}

fn uid() -> u32 {
    use std::os::unix::fs::MetadataExt;
    // Whoever made this folder is who runs the tests.
    Folder::new("uid").path().metadata().unwrap().uid()
}
