//! A pool with a worker on another address, as two commands: whoever is killed, nothing of it is left,
//! the caller is told by name, and what can goes on.

#![expect(clippy::panic, reason = "a test fails by panicking, in its helpers too")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use snakehouse_base::Secret;
use snakehouse_grpc::proto::pool_client::PoolClient;
use snakehouse_grpc::proto::value::Encoding;
use snakehouse_grpc::proto::{CallRequest, CallResponse, Value};
use snakehouse_grpc::{Channel, Dial, error_of};
use snakehouse_supervise::{Root, Scope};
use snakehouse_system_tests::{command, descendants, wait_gone};
use tokio::time::timeout;

const TOOLS: &str = r#"
import os, pathlib, subprocess, time
from snakehouse import tool

@tool
def pid():
    return os.getpid()

@tool
def wait(path):
    child = subprocess.Popen(["sleep", "3600"], start_new_session=True)
    fresh = pathlib.Path(path + ".new")
    fresh.write_text(f"{os.getpid()} {child.pid}")
    fresh.rename(path)
    time.sleep(3600)
"#;

const BOUND: Duration = Duration::from_secs(60);
const CLIENTS: &str = "a-token-of-the-clients";
const WORKERS: &str = "a-token-of-the-workers";

/// A command that says what it does, one line each. Killed when dropped.
struct Program {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Program {
    fn start(home: &Path, args: &[&str]) -> Self {
        let mut child = command(home)
            .arg("--json")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines }
    }

    /// The next thing that it says.
    fn says(&mut self) -> serde_json::Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("text");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Kills it; what was below it is gone then.
    fn kill(mut self) {
        let below = descendants(self.child.id());
        assert!(!below.is_empty());
        self.child.kill().expect("it runs");
        self.child.wait().expect("ours");
        assert!(wait_gone(&below, BOUND).is_empty());
    }

    /// Asks it to end; its status.
    fn stop(mut self) -> Option<i32> {
        let below = descendants(self.child.id());
        kill_process(Pid::from_child(&self.child), Signal::TERM).expect("it runs");
        let status = self.child.wait().expect("ours");
        assert!(wait_gone(&below, BOUND).is_empty());
        status.code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may be gone.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two hosts, each with a home, and the files of both.
struct Hosts {
    files: tempfile::TempDir,
}

impl Hosts {
    fn new() -> Self {
        let files = tempfile::tempdir().expect("a temporary directory");
        let hosts = Self { files };
        for (name, text) in [("clients", CLIENTS), ("workers", WORKERS), ("tools.py", TOOLS)] {
            fs::write(hosts.path(name), text).expect("written");
        }
        for home in ["pool", "agent"] {
            fs::create_dir(hosts.path(home)).expect("made");
        }
        hosts
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A pool for one worker of another host; where it is.
    fn serve(&self, listen: &str) -> (Program, String) {
        let (clients, workers) = (self.text("clients"), self.text("workers"));
        let args = ["pool", "serve", "--attached", "1", "--listen", listen, "--token-file"];
        let args = [&args[..], &[&clients, "--worker-token-file", &workers]].concat();
        let mut server = Program::start(&self.path("pool"), &args);
        let ready = server.says();
        let url = ready["url"].as_str().unwrap_or_else(|| panic!("{ready}")).to_owned();
        (server, url)
    }

    fn attach(&self, url: &str, token: &str) -> Program {
        let (tools, token) = (self.text("tools.py"), self.text(token));
        let args = ["worker", "attach", url, "--tools", &tools, "--token-file", &token];
        Program::start(&self.path("agent"), &args)
    }

    /// The worker and what it started, once the tool runs.
    async fn below(&self, mark: &str) -> Vec<u32> {
        let path = self.path(mark);
        let looking = async {
            while !path.exists() {
                tokio::task::yield_now().await;
            }
        };
        timeout(BOUND, looking).await.expect("the tool does not run");
        let text = fs::read_to_string(path).expect("it is there");
        text.split(' ').map(|pid| pid.parse().expect("a number")).collect()
    }
}

async fn client(scope: &Scope, url: &str) -> PoolClient<Channel> {
    let dial = Dial { token: Some(Secret::new(CLIENTS)), ..Dial::new(url) };
    PoolClient::new(Channel::connect(scope, &dial).await.expect("it is reached").0)
}

fn request(tool: &str, arguments: String) -> CallRequest {
    let arguments = Some(Value { encoding: Some(Encoding::Json(arguments)) });
    CallRequest { tool: tool.to_owned(), arguments, ..CallRequest::default() }
}

fn json(response: CallResponse) -> serde_json::Value {
    match response.result.and_then(|value| value.encoding) {
        Some(Encoding::Json(text)) => serde_json::from_str(&text).expect("JSON"),
        other => panic!("{other:?}"),
    }
}

/// The pid of the worker that serves, as it says itself.
async fn pid(client: &mut PoolClient<Channel>) -> serde_json::Value {
    let called = timeout(BOUND, client.call(request("pid", "{}".to_owned()))).await;
    json(called.expect("nobody serves").expect("it serves").into_inner())
}

#[test]
fn whoever_is_killed_nothing_of_it_is_left_and_what_can_goes_on() {
    snakehouse_supervise::run(async {
        let (root, hosts) = (Root::new("test"), Hosts::new());
        let (server, url) = hosts.serve("127.0.0.2:0");
        let mut agent = hosts.attach(&url, "workers");
        let first = agent.says();
        assert_eq!(first["event"], "attached");
        let mut door = client(root.scope(), &url).await;
        assert_eq!(pid(&mut door).await, first["pid"]);
        let wait = |door: &PoolClient<Channel>, mark: &str| {
            let mut door = door.clone();
            let path = serde_json::to_string(&hosts.path(mark)).expect("a path is text");
            let call = request("wait", format!("[[{path}], {{}}]"));
            root.scope().task("call", async move { door.call(call).await })
        };

        // The worker's process.
        let waiting = wait(&door, "worker");
        let below = hosts.below("worker").await;
        let worker = i32::try_from(below[0]).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(worker, Signal::KILL).expect("it runs");
        let status = waiting.await.expect("ours").expect_err("it was killed");
        assert_eq!(error_of(&status).expect("an error").code, "worker_died", "{status}");
        assert!(wait_gone(&below, BOUND).is_empty());
        let second = agent.says();
        assert_ne!(second["pid"], first["pid"]);
        assert_eq!(pid(&mut door).await, second["pid"], "the agent attached another one");

        // The agent.
        let waiting = wait(&door, "agent-killed");
        let below = hosts.below("agent-killed").await;
        agent.kill();
        let status = waiting.await.expect("ours").expect_err("its worker is gone");
        assert_eq!(error_of(&status).expect("an error").code, "outcome_unknown", "{status}");
        assert!(wait_gone(&below, BOUND).is_empty());
        let mut agent = hosts.attach(&url, "workers");
        let third = agent.says();
        assert_eq!(pid(&mut door).await, third["pid"]);

        // The server.
        let waiting = wait(&door, "server-killed");
        let below = hosts.below("server-killed").await;
        server.kill();
        let status = waiting.await.expect("ours").expect_err("its server is gone");
        assert!(error_of(&status).is_none(), "nobody is left to say more: {status}");
        assert!(wait_gone(&below, BOUND).is_empty());
        let (server, url) = hosts.serve(url.trim_start_matches("http://"));
        let fourth = agent.says();
        let mut door = client(root.scope(), &url).await;
        assert_eq!(pid(&mut door).await, fourth["pid"], "the agent came back by itself");

        let mut stranger = hosts.attach(&url, "clients");
        let refused = stranger.says();
        assert_eq!(refused["error"]["code"], "attach_refused", "{refused}");
        assert!(refused["error"]["message"].as_str().expect("text").contains("wrong_token"));

        assert_eq!((agent.stop(), server.stop()), (Some(0), Some(0)));
        for home in ["pool", "agent"] {
            let runs = fs::read_dir(hosts.path(home).join("runs")).expect("they were recorded");
            assert_eq!(runs.count(), 0, "{home}");
        }
        root.stop().await;
    });
}
