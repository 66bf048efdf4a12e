//! The stores that the model is run on, and how a process dies on them.

use std::path::PathBuf;
use std::sync::Arc;

use countersign_core::TenantId;
use countersign_store::fail::{FailPoint, Fault};
use countersign_store::{Commit, Config, Kernel, MemoryKernel, Mode, RocksKernel};
use tempfile::TempDir;

pub fn acme() -> TenantId {
    TenantId::new("acme").unwrap()
}

pub trait Backend: Sized {
    type Store: Kernel;
    const NAME: &'static str;

    fn create() -> Self;
    fn kernel(&self) -> Arc<Self::Store>;
    fn fail(&self) -> &FailPoint;
    /// Starts anew on what is there. Nobody may hold the kernel any more.
    fn reopen(&mut self);
}

/// Takes a fault back that nothing has met.
pub fn disarm(fail: &FailPoint) {
    fail.arm_nth(u64::MAX, Fault::CrashBefore);
}

/// Lets the process die between two calls: what it was about to write is lost, and nothing is shut down.
pub async fn die<B: Backend>(backend: &B) {
    backend.fail().arm(Fault::CrashBefore);
    let last = Commit::new(acme()).record("lost in the crash");
    assert!(backend.kernel().commit(last).await.is_err());
}

pub struct InMemory {
    kernel: Arc<MemoryKernel>,
    fail: FailPoint,
}

impl Backend for InMemory {
    type Store = MemoryKernel;
    const NAME: &'static str = "memory";

    fn create() -> Self {
        let fail = FailPoint::default();
        Self { kernel: Arc::new(MemoryKernel::new(fail.clone())), fail }
    }

    fn kernel(&self) -> Arc<MemoryKernel> {
        Arc::clone(&self.kernel)
    }

    fn fail(&self) -> &FailPoint {
        &self.fail
    }

    fn reopen(&mut self) {
        self.kernel = Arc::new(self.kernel.restart());
    }
}

pub struct OnDisk {
    kernel: Option<Arc<RocksKernel>>,
    config: Config,
    directory: TempDir,
}

impl OnDisk {
    fn path(&self) -> PathBuf {
        self.directory.path().join("data")
    }
}

impl Backend for OnDisk {
    type Store = RocksKernel;
    const NAME: &'static str = "RocksDB";

    fn create() -> Self {
        // What a sync costs is measured elsewhere; here it would only be waited for.
        let shared = PathBuf::from("/dev/shm");
        let directory = if shared.is_dir() { tempfile::tempdir_in(shared) } else { tempfile::tempdir() };
        let mut config = Config::new(Mode::Production);
        config.cache_bytes = 1 << 20;
        let mut new = Self { kernel: None, config, directory: directory.unwrap() };
        new.kernel = Some(Arc::new(RocksKernel::create(&new.path(), &new.config).unwrap()));
        new
    }

    fn kernel(&self) -> Arc<RocksKernel> {
        Arc::clone(self.kernel.as_ref().unwrap())
    }

    fn fail(&self) -> &FailPoint {
        &self.config.fail
    }

    fn reopen(&mut self) {
        let last = Arc::into_inner(self.kernel.take().unwrap());
        assert!(last.is_some(), "somebody still holds the kernel of a dead process");
        drop(last);
        self.kernel = Some(Arc::new(RocksKernel::open(&self.path(), &self.config).unwrap()));
    }
}
