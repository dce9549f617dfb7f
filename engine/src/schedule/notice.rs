//! Telling others about a regression: a command and a webhook.

use std::io::{Seek as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Comparison, OnRegression, Webhook};

/// Longest wait for an answer to a notice.
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
const COMMAND_POLL: Duration = Duration::from_millis(20);

/// A regression, for whoever is told.
#[derive(Debug, Clone)]
pub(super) struct Notice {
    pub(super) manifest: std::path::PathBuf,
    pub(super) slot: Timestamp,
    pub(super) comparison: Comparison,
}

impl Notice {
    fn facts(&self) -> Value {
        json!({
            "event": "regression",
            "manifest": self.manifest,
            "slot": self.slot,
            "run": self.comparison.run,
            "last-good": self.comparison.last_good,
            "worse": self.comparison.worse,
            "unjudged": self.comparison.unjudged,
        })
    }

    /// Tells everyone; gives back whom, and what went wrong. Blocks.
    pub(super) fn send(
        &self,
        watch: &OnRegression,
        folder: &Path,
    ) -> Vec<(String, Option<String>)> {
        let mut sent = Vec::new();
        if let [program, arguments @ ..] = watch.command.as_slice() {
            let error = self.command(program, arguments, folder).err();
            sent.push((watch.command.join(" "), error));
        }
        if let Some(webhook) = &watch.webhook {
            sent.push((webhook.as_str().to_owned(), self.post(webhook).err()));
        }
        sent
    }

    fn command(&self, program: &str, arguments: &[String], folder: &Path) -> Result<(), String> {
        // A file instead of a pipe: a command that does not read cannot hold anyone up.
        let facts = || {
            let mut file = tempfile::tempfile()?;
            file.write_all(self.facts().to_string().as_bytes())?;
            file.rewind()?;
            std::io::Result::Ok(file)
        };
        let worse: Vec<_> = self.comparison.worse.iter().map(|one| one.metric.as_str()).collect();
        let mut child = Command::new(program)
            .args(arguments)
            .current_dir(folder)
            .env("PIPELINE_EVENT", "regression")
            .env("PIPELINE_MANIFEST", &self.manifest)
            .env("PIPELINE_SLOT", self.slot.to_string())
            .env("PIPELINE_RUN", self.comparison.run.to_string())
            .env("PIPELINE_METRICS", worse.join(" "))
            .stdin(facts().map_err(|error| format!("cannot write the facts: {error}"))?)
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("cannot start it: {error}"))?;
        let begun = Instant::now();
        loop {
            match child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("it ended with {status}")),
                Ok(None) if begun.elapsed() < COMMAND_TIMEOUT => std::thread::sleep(COMMAND_POLL),
                Ok(None) => {
                    let _gone = child.kill().and_then(|()| child.wait());
                    return Err(format!("it was killed after {COMMAND_TIMEOUT:?}"));
                }
                Err(error) => return Err(format!("cannot wait for it: {error}")),
            }
        }
    }

    fn post(&self, webhook: &Webhook) -> Result<(), String> {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().timeout_global(Some(WEBHOOK_TIMEOUT)).build().into();
        agent
            .post(webhook.as_str())
            .header("content-type", "application/json")
            .send(self.facts().to_string())
            .map(drop)
            .map_err(|error| format!("it did not take the notice: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{BufRead as _, BufReader, Read as _};

    use super::*;
    use crate::schedule::Finding;

    fn notice() -> Notice {
        let worse = Finding {
            metric: "bench/test/accuracy".to_owned(),
            detail: "is 0.5".to_owned(),
            value: Some(0.5),
            interval: Some((0.7, 0.9)),
        };
        Notice {
            manifest: "nightly.toml".into(),
            slot: "2026-05-04T10:00:00Z".parse().unwrap(),
            comparison: Comparison {
                run: 7,
                last_good: Some(6),
                worse: vec![worse],
                unjudged: Vec::new(),
            },
        }
    }

    fn watch(command: &[&str], webhook: Option<String>) -> OnRegression {
        OnRegression {
            metrics: BTreeMap::new(),
            command: command.iter().map(|&part| part.to_owned()).collect(),
            webhook: webhook.map(|url| url.try_into().unwrap()),
            exit: false,
        }
    }

    #[test]
    fn a_command_gets_the_facts_as_json_and_variables() {
        let folder = tempfile::tempdir().unwrap();
        let script = "cat > facts; echo \"$PIPELINE_RUN $PIPELINE_METRICS\" > variables";
        let sent = notice().send(&watch(&["sh", "-c", script], None), folder.path());
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].1, None);
        let read = |name| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let facts: Value = serde_json::from_str(&read("facts")).unwrap();
        assert_eq!(facts["worse"][0]["metric"], "bench/test/accuracy");
        assert_eq!((&facts["run"], &facts["last-good"]), (&json!(7), &json!(6)));
        assert_eq!(read("variables"), "7 bench/test/accuracy\n");
        for (command, said) in [(["false"], "exit status: 1"), (["/no/such"], "cannot start")] {
            let sent = notice().send(&watch(&command, None), folder.path());
            assert!(sent[0].1.as_ref().is_some_and(|error| error.contains(said)), "{sent:?}");
        }
    }

    #[test]
    fn a_webhook_gets_the_facts_and_its_refusal_is_told() {
        for (answer, error) in [("204 No Content", None), ("500 Broken", Some("500"))] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}/hook", listener.local_addr().unwrap());
            let server = std::thread::spawn(move || {
                let (stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream);
                let mut length = 0;
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    if line.trim().is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; length];
                reader.read_exact(&mut body).unwrap();
                write!(reader.get_mut(), "HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").unwrap();
                serde_json::from_slice::<Value>(&body).unwrap()
            });
            let sent = notice().send(&watch(&[], Some(url)), Path::new("/"));
            assert_eq!(server.join().unwrap()["slot"], "2026-05-04T10:00:00Z");
            match error {
                None => assert_eq!(sent[0].1, None),
                Some(code) => assert!(sent[0].1.as_ref().unwrap().contains(code), "{sent:?}"),
            }
        }
    }
}
