//! What is told of approval requests, by real servers to real receivers.

mod hostile;
mod letters;
mod receiver;
mod webhook;

use countersign::client::Client;
use countersign::proto::*;
use tempfile::TempDir;

use crate::harness::flow::{AGENT, OPERATOR, ask, export, open, vote};
use crate::harness::production::{self, Tenant};
use crate::harness::{Mode, Options, PATIENCE, Server};
pub use receiver::{Behaviour, Received, Receiver, key_file};

/// A server with one tenant whose sinks are these TOML tables; `{dir}` in them is a directory for files of the test.
struct Scene {
    server: Server,
    tenant: Tenant,
    _dir: TempDir,
}

impl Scene {
    async fn new(dir: TempDir, sinks: &str) -> Self {
        let tenant = Tenant::new("acme");
        let sinks = sinks.replace("{dir}", dir.path().to_str().unwrap());
        let toml = format!("{}\n{sinks}", production::toml(dir.path(), &[&tenant], ""));
        let server = Server::start(Options { mode: Mode::Production(toml), ..Options::default() }).await;
        Self { server, tenant, _dir: dir }
    }

    async fn client(&self, subject: &str) -> Client {
        self.server.client_of(&self.tenant.issuer.token(subject)).await
    }

    async fn agent(&self) -> Client {
        self.server.client_of(&self.tenant.issuer.acting(AGENT, OPERATOR)).await
    }

    /// A request that was asked, answered by two, and so approved.
    async fn approved(&self, rows: i64) -> String {
        let agent = self.agent().await;
        let session = open(&agent).await;
        let approval = ask(&agent, &session, &export(rows)).await.unwrap().approval_id;
        for person in ["dana", "dave"] {
            vote(&self.client(person).await, &approval, VoteVerdict::Approve).await.unwrap();
        }
        approval
    }

    /// Runs a command as somebody.
    async fn cli(&self, subject: &str, args: &[&str]) -> crate::harness::cli::Finished {
        self.server.cli(&self.tenant.issuer.token(subject), args).await
    }

    /// Waits until the sinks are as wanted.
    async fn until_sinks(&self, wanted: impl Fn(&[NotificationSink]) -> bool) -> Vec<NotificationSink> {
        let auditor = self.client("aaron").await;
        let waiting = async {
            loop {
                let sinks = auditor.list_sinks(ListSinksRequest {}).await.unwrap().sinks;
                if wanted(&sinks) {
                    return sinks;
                }
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("the sinks never are as wanted:\n{}", self.server.logs()))
    }
}

/// What an approved request is told as.
const APPROVED: [&str; 4] = ["asked", "voted", "voted", "decided"];
