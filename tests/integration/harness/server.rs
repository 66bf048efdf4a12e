//! A server as a child process.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use countersign::client::{Client, ClientConfig, Credentials};
use countersign::identity::DevIssuer;
use countersign_core::time::SystemClock;
use countersign_core::{Clock as _, Timestamp};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue};
use tonic::transport::{Channel, Endpoint};

use super::PATIENCE;
use super::bundle::Bundle;
use super::process::{Exited, Process};

/// How a server is configured.
#[derive(Debug, Clone)]
pub enum Mode {
    /// `serve --dev` with the bundle.
    Development,
    /// `serve --config` with this TOML. `{data}` stands for the data directory and `{bundle}` for the bundle's.
    Production(String),
}

/// What to start.
#[derive(Debug)]
pub struct Options {
    /// The bundle; the example's unless said otherwise.
    pub bundle: Bundle,
    /// How it is configured.
    pub mode: Mode,
    /// A data directory that outlives the server; one of its own unless said otherwise.
    pub data_dir: Option<PathBuf>,
    /// When a development server's clock begins; now unless said otherwise.
    pub clock: Option<Timestamp>,
    /// Further arguments of `serve`.
    pub args: Vec<String>,
    /// Its environment; empty unless said otherwise.
    pub env: Vec<(String, String)>,
    /// How large a file may grow, in bytes; as large as it likes unless said otherwise.
    pub largest_file: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bundle: Bundle::example(),
            mode: Mode::Development,
            data_dir: None,
            clock: None,
            args: Vec::new(),
            env: Vec::new(),
            largest_file: None,
        }
    }
}

/// A server. Ends with the value, and its directories with it.
#[derive(Debug)]
pub struct Server {
    process: Process,
    endpoint: String,
    http: String,
    started: Instant,
    options: Options,
    data_dir: PathBuf,
    temporary: TempDir,
    earlier_logs: String,
}

impl Server {
    /// A development server with the example bundle.
    pub async fn dev() -> Self {
        Self::start(Options::default()).await
    }

    /// A development server with this bundle.
    pub async fn with_bundle(bundle: Bundle) -> Self {
        Self::start(Options { bundle, ..Options::default() }).await
    }

    /// Starts a server, which then takes requests.
    pub async fn start(options: Options) -> Self {
        Self::try_start(options).await.unwrap_or_else(|exited| panic!("does not start: {exited:?}"))
    }

    /// Starts a server, or tells how it ended instead.
    pub async fn try_start(options: Options) -> Result<Self, Exited> {
        let temporary = tempfile::tempdir().unwrap();
        let data_dir = options.data_dir.clone().unwrap_or_else(|| temporary.path().join("data"));
        let (process, endpoint, http) = Self::launch(&options, &data_dir, temporary.path()).await?;
        let (started, earlier_logs) = (Instant::now(), String::new());
        Ok(Self { process, endpoint, http, started, options, data_dir, temporary, earlier_logs })
    }

    async fn launch(options: &Options, data_dir: &Path, scratch: &Path) -> Result<(Process, String, String), Exited> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let mut args: Vec<String> =
            ["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-format", "json"]
                .map(str::to_owned)
                .to_vec();
        match &options.mode {
            Mode::Development => {
                args.push("--dev".to_owned());
                args.extend(["--data-dir".to_owned(), text(data_dir)]);
                args.extend(["--bundle".to_owned(), text(options.bundle.path())]);
                if let Some(clock) = options.clock {
                    let clock = jiff::Timestamp::from_millisecond(clock.millis()).unwrap();
                    args.extend(["--clock".to_owned(), clock.to_string()]);
                }
            }
            Mode::Production(toml) => {
                let toml = toml.replace("{data}", &text(data_dir)).replace("{bundle}", &text(options.bundle.path()));
                let path = scratch.join("countersign.toml");
                std::fs::write(&path, toml).unwrap();
                if ["store", "keys", "restoring"].iter().all(|part| !data_dir.join(part).exists()) {
                    // What is refused here, `serve` refuses as well, and that is what the test sees.
                    super::cli::init(&path, &options.args, &options.env).await;
                }
                args.extend(["--config".to_owned(), text(&path)]);
            }
        }
        args.extend(options.args.iter().cloned());
        let mut process = Process::spawn(&args, &options.env, options.largest_file);
        let line = process.line(|line| field(line, "message").as_deref() == Some("serving")).await?;
        let endpoint = field(&line, "endpoint").unwrap();
        let http = field(&line, "http").unwrap();
        Ok((process, endpoint, http))
    }

    /// Where gRPC is served: `http://127.0.0.1:PORT`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// A directory for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.temporary.path()
    }

    /// The bundle that it reads, to be changed under it.
    pub fn bundle(&self) -> &Bundle {
        &self.options.bundle
    }

    /// The server's time.
    pub fn now(&self) -> Timestamp {
        match self.options.clock {
            Some(begun) => begun.plus(self.started.elapsed()),
            None => SystemClock::default().wall(),
        }
    }

    /// The server's time when it was started, or a moment before.
    pub fn began(&self) -> Timestamp {
        let began = self.now().millis() - i64::try_from(self.started.elapsed().as_millis()).unwrap();
        Timestamp::from_millis(began - 10)
    }

    /// A development credential for `subject` (`agent:NAME`, `service:NAME` or an account), acting for `operator`, with
    /// `via` having acted before it.
    pub fn token(&self, subject: &str, operator: Option<&str>, via: &[&str]) -> String {
        let issuer = DevIssuer::open_or_create(&self.data_dir).unwrap();
        // Issued by the system's clock, as `countersign dev token` does, and good at whatever time the server believes in.
        let ttl = if self.options.clock.is_some() { 3_650 * 24 * 3_600 } else { 3_600 };
        issuer.token(subject, operator, via, SystemClock::default().wall(), Duration::from_secs(ttl)).unwrap()
    }

    /// A client for `subject`. It attempts each call once: what the server answers is what the test sees.
    pub async fn client(&self, subject: &str, operator: Option<&str>, via: &[&str]) -> Client {
        self.client_of(&self.token(subject, operator, via)).await
    }

    /// A client with this credential.
    pub async fn client_of(&self, token: &str) -> Client {
        let credentials = Credentials::bearer(token);
        let config = ClientConfig::new(&self.endpoint).credentials(credentials).attempts(1).timeout(PATIENCE);
        Client::connect(config).await.unwrap()
    }

    /// A client for a person, agent (`agent:`) or service (`service:`) that nobody delegated to.
    pub async fn person(&self, subject: &str) -> Client {
        self.client(subject, None, &[]).await
    }

    /// A connection for the generated clients.
    pub async fn channel(&self) -> Channel {
        Endpoint::from_shared(self.endpoint.clone()).unwrap().connect().await.unwrap()
    }

    /// A request with a credential, if not empty, and any other metadata.
    pub fn request<M>(message: M, token: &str, metadata: &[(&'static str, &str)]) -> tonic::Request<M> {
        let mut request = tonic::Request::new(message);
        if !token.is_empty() {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        for (name, value) in metadata {
            let name: AsciiMetadataKey = name.parse().unwrap();
            request.metadata_mut().append(name, value.parse::<AsciiMetadataValue>().unwrap());
        }
        request
    }

    /// Status line and body of a plain HTTP GET, such as of `/readyz` or `/metrics`.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = tokio::net::TcpStream::connect(&self.http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.http);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    /// Waits until `/readyz` says this.
    pub async fn until_ready(&self, ready: bool) {
        let waiting = async {
            while (self.get("/readyz").await.0 == 200) != ready {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never ready: {}", self.logs()));
    }

    /// The metrics as they are now.
    pub async fn metrics(&self) -> String {
        self.get("/metrics").await.1
    }

    /// All that it said on standard error, in every life of it.
    pub fn logs(&self) -> String {
        format!("{}{}", self.earlier_logs, self.process.text())
    }

    /// Waits for a line of its log.
    pub async fn log_line(&mut self, fits: impl Fn(&str) -> bool) -> String {
        self.process.line(fits).await.unwrap_or_else(|exited| panic!("ended instead: {exited:?}"))
    }

    /// Lets files grow as large as they like from the next start on.
    pub fn make_room(&mut self) {
        self.options.largest_file = None;
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        self.process.kill().await;
    }

    /// SIGTERM; does not wait.
    pub fn ask_to_end(&self) {
        self.process.ask_to_end();
    }

    /// SIGHUP: files are read again.
    pub fn hang_up(&self) {
        self.process.signal("HUP");
    }

    /// Waits for the end.
    pub async fn exited(&mut self) -> Exited {
        self.process.exited().await
    }

    /// SIGTERM, and waits for the end.
    pub async fn terminate(&mut self) -> Exited {
        self.process.ask_to_end();
        self.process.exited().await
    }

    /// Starts it again on the same directories, after it was killed or ended; ends it first if it still runs.
    pub async fn restart(&mut self) {
        self.try_restart().await.unwrap_or_else(|exited| panic!("does not start again: {exited:?}"));
    }

    /// As [`Self::restart`], or how it ended instead.
    pub async fn try_restart(&mut self) -> Result<(), Exited> {
        if self.process.runs() {
            self.terminate().await;
        }
        let now = self.now();
        if let Some(clock) = &mut self.options.clock {
            *clock = now;
        }
        self.earlier_logs = format!("{}\n", self.logs());
        let (process, endpoint, http) = Self::launch(&self.options, &self.data_dir, self.temporary.path()).await?;
        (self.process, self.endpoint, self.http, self.started) = (process, endpoint, http, Instant::now());
        Ok(())
    }
}

/// A field of a log line.
pub fn field(line: &str, name: &str) -> Option<String> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    line.get(name)?.as_str().map(str::to_owned)
}
