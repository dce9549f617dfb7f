//! `pipeline ui` and `pipeline note`: what the command adds to the pages, which have tests of their
//! own beside them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::sandbox::{Sandbox, TEACHER, reviews};

#[test]
fn pages_are_served_until_ctrl_c() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["ui", "--no-open"]);
    let mut server = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(server.stdout.take().expect("piped")).lines();
    let address = lines.next().expect("a line").expect("UTF-8");
    let (origin, token) = address.split_once("/#token=").expect("an address with a token");
    let host = origin.strip_prefix("http://").expect("an address");
    assert!(host.starts_with("127.0.0.1:") && token.len() == 32, "{address}");

    let page = get(host, "/");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("pipeline run MANIFEST"), "{page}");
    let (_, port) = host.split_once(':').expect("a port");
    let second = sandbox.run(&["ui", "--no-open", "--port", port]);
    assert_eq!(second.code, Some(2), "{second:?}");
    assert!(second.stderr.contains("choose another `--port`"), "{second:?}");

    let id = i32::try_from(server.id()).expect("a process id");
    kill_process(Pid::from_raw(id).expect("not 0"), Signal::INT).expect("it runs");
    assert_eq!(server.wait().expect("it ends").code(), Some(0));
    assert!(!sandbox.path(".pipeline").exists(), "reading writes nothing");
}

#[test]
fn notes_are_in_the_report_and_the_record() {
    let sandbox = Sandbox::new();
    let head = "schema = 1\nname = \"noted\"\nseed = 7\n";
    sandbox.write("noted.toml", format!("{head}{}{TEACHER}", reviews(160)));
    let (code, _) = sandbox.events(&["noted.toml"]);
    assert_eq!(code, Some(0));
    let said = sandbox.ask(&["note", "latest", "--approve", "fast enough", "--author", "Ann"]);
    assert_eq!(said.trim(), "run 1: approved by Ann");
    let note = sandbox.json(&["note", "1", "--reject", "--author", "Ben"]);
    assert_eq!(note["verdict"], "rejected");
    let record = sandbox.json(&["show", "1"]);
    assert_eq!(record["notes"][0]["text"], "fast enough");
    assert_eq!(record["notes"][1], note);
    let report = sandbox.ask(&["report", "--format", "md"]);
    assert!(report.contains("**approved** Ann") && report.contains("fast enough"), "{report}");
}

fn get(host: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(host).expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    answer
}
