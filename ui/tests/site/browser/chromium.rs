//! A browser that tests drive: Debian's `chromium` through the DevTools protocol over two pipes, so
//! that nothing but the browser has to be installed.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longest wait for the browser; it shares the machine with other tests.
const PATIENCE: Duration = Duration::from_secs(120);
const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A browser with one page open.
pub(crate) struct Chromium {
    process: Child,
    commands: ChildStdin,
    answers: Receiver<Value>,
    /// Messages of the page that nobody has looked at yet.
    events: VecDeque<Value>,
    session: String,
    next: u64,
}

/// Where a browser is, if there is one.
pub(crate) fn program() -> Option<&'static str> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<_> = std::env::split_paths(&path).collect();
    PROGRAMS.into_iter().find(|name| folders.iter().any(|folder| folder.join(name).exists()))
}

impl Chromium {
    /// Starts a browser with an empty profile in a folder.
    pub(crate) fn start(program: &str, profile: &Path) -> Self {
        // It reads commands from descriptor 3 and answers on 4.
        let script = "exec 3<&0 4>&1 >/dev/null 2>&1; exec \"$@\"";
        let mut process = Command::new("sh")
            .args(["-c", script, "sh", program, "--headless=new", "--remote-debugging-pipe"])
            .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the browser starts");
        let commands = process.stdin.take().expect("piped");
        let mut output = BufReader::new(process.stdout.take().expect("piped"));
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            while matches!(output.read_until(0, &mut bytes), Ok(count) if count > 0) {
                let message = serde_json::from_slice(&bytes[..bytes.len() - 1]).expect("JSON");
                bytes.clear();
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let session = String::new();
        let mut browser =
            Self { process, commands, answers, events: VecDeque::new(), session, next: 0 };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.call("Target.attachToTarget", attach);
        browser.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Calls a method of the protocol and waits for its answer.
    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": parameters });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).expect("the browser listens");
        loop {
            let answer = self.receive();
            if answer["id"] == self.next {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push_back(answer);
        }
    }

    fn receive(&self) -> Value {
        self.answers.recv_timeout(PATIENCE).expect("the browser answers")
    }

    /// Goes to an address and waits until the page is there.
    pub(crate) fn go(&mut self, address: &str) {
        self.events.retain(|event| event["method"] != "Page.loadEventFired");
        self.call("Page.navigate", json!({ "url": address }));
        self.wait_for_load();
    }

    /// Waits until a page that something else led to is there.
    pub(crate) fn wait_for_load(&mut self) {
        let is_load = |event: &Value| event["method"] == "Page.loadEventFired";
        while !self.events.iter().any(is_load) {
            let event = self.receive();
            self.events.push_back(event);
        }
        self.events.retain(|event| !is_load(event));
    }

    /// Value of an expression in the page.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let question =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", question);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub(crate) fn wait(&mut self, expression: &str) {
        let begun = Instant::now();
        while self.value(expression) != true {
            if begun.elapsed() > PATIENCE {
                let page = self.value("document.body.innerText");
                panic!("waited in vain for {expression} on {page}");
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Presses a key, such as `Tab`, `Enter` or ` `.
    pub(crate) fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, ""),
            "Enter" => (13, "\r"),
            " " => (32, " "),
            other => panic!("the test knows no key `{other}`"),
        };
        for kind in ["keyDown", "keyUp"] {
            let name = if key == " " { "Space" } else { key };
            let event = json!({
                "type": kind, "key": key, "code": name, "windowsVirtualKeyCode": code,
                "text": if kind == "keyDown" { text } else { "" },
            });
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Types a text where the focus is.
    pub(crate) fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// Size of the page in pixels.
    pub(crate) fn resize(&mut self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// What the system prefers, `light` or `dark`.
    pub(crate) fn prefer(&mut self, theme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": theme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Whether pages may run scripts. The protocol's own evaluation goes on to work.
    pub(crate) fn allow_scripts(&mut self, allowed: bool) {
        self.call("Emulation.setScriptExecutionDisabled", json!({ "value": !allowed }));
    }

    /// Everything that a console would show as an error or a warning since the last time.
    pub(crate) fn complaints(&mut self) -> Vec<String> {
        // An answer comes after all messages before it.
        self.call("Runtime.evaluate", json!({ "expression": "0" }));
        let complaint = |event: &Value| {
            let parameters = &event["params"];
            match event["method"].as_str()? {
                "Runtime.exceptionThrown" => Some(parameters["exceptionDetails"].to_string()),
                "Runtime.consoleAPICalled" => match parameters["type"].as_str()? {
                    "error" | "warning" | "assert" => Some(parameters["args"].to_string()),
                    _ => None,
                },
                "Log.entryAdded" => match parameters["entry"]["level"].as_str()? {
                    "error" | "warning" => Some(parameters["entry"].to_string()),
                    _ => None,
                },
                _ => None,
            }
        };
        self.events.drain(..).filter_map(|event| complaint(&event)).collect()
    }

    /// A picture of the whole page, PNG in base64.
    pub(crate) fn picture(&mut self) -> String {
        let format = json!({ "format": "png", "captureBeyondViewport": true });
        let picture = self.call("Page.captureScreenshot", format);
        picture["data"].as_str().expect("a picture").to_owned()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        let close = json!({ "id": 0, "method": "Browser.close" }).to_string();
        // It may have ended by itself; then there is nothing to close.
        let _closed = self.commands.write_all(format!("{close}\0").as_bytes());
        let begun = Instant::now();
        while matches!(self.process.try_wait(), Ok(None)) {
            if begun.elapsed() > Duration::from_secs(10) {
                let _ended = self.process.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
