//! What a worker is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use snakehouse_wire::{
    BUFFER_FD_VARIABLE, CAPACITY_VARIABLE, FD_VARIABLE, MODE_VARIABLE, PAGE_FD_VARIABLE,
};

use crate::attach::Attachments;
use crate::devices::Devices;
use crate::environment;
use crate::host::{HostTool, HostTools};
use crate::interpreter::Interpreter;
use crate::limits::Limits;
use crate::reaper::{Command, Zygote};
use crate::variables::Variables;

/// Where the reaper puts a worker's control socket and page. Standard input, because that is the
/// one descriptor a Rust program can take over without `unsafe`.
const CONTROL_FD: &str = "0";
const PAGE_FD: &str = "3";
/// The first number behind those that every worker is given.
const BUFFER_FD: &str = "5";

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Threads => "threads",
            Self::Asyncio => "asyncio",
        }
    }
}

/// How to start the workers of a pool.
///
/// A worker sees a short list of the host's variables (where programs, libraries and the user's
/// files are, language and time, certificates to trust, devices to use), those that
/// [`inherit_env`](Self::inherit_env) names, what [`env`](Self::env) sets, and nothing else: nothing
/// that may be a secret passes by itself. A Python worker has one thread of arithmetic
/// (`OMP_NUM_THREADS` and its kin are 1) unless [`env`](Self::env) or [`threads`](Self::threads)
/// says otherwise.
#[derive(Clone, Debug)]
pub struct WorkerSpec {
    pub(crate) name: String,
    pub(crate) cancel_grace: Option<Duration>,
    kind: Kind,
    env: Variables,
    inherit: Vec<String>,
    cwd: Option<PathBuf>,
    limits: Limits,
    pub(crate) devices: Option<Devices>,
    capacity: Option<(usize, Mode)>,
    pub(crate) host_tools: HostTools,
}

/// How a Python worker runs several calls at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each call on a thread of its own: for tools that wait in code which lets go of the
    /// interpreter.
    Threads,
    /// All calls on one event loop: for `async` tools. Plain functions are refused at load.
    Asyncio,
}

#[derive(Clone, Debug)]
enum Kind {
    Python {
        interpreter: Interpreter,
        modules: Vec<String>,
        path: Vec<PathBuf>,
        preload: Vec<String>,
        forked: bool,
    },
    Program {
        path: PathBuf,
        args: Vec<String>,
    },
    Attached(Attachments),
}

impl WorkerSpec {
    /// A Python worker. `name` is for logs and the supervision tree.
    ///
    /// Cancelled calls are interrupted in Python; one that is not back after 2 s costs the worker
    /// its life (see [`cancel_grace`](Self::cancel_grace)).
    pub fn python(name: impl Into<String>, interpreter: Interpreter) -> Self {
        let (modules, path, preload) = (Vec::new(), Vec::new(), Vec::new());
        let kind = Kind::Python { interpreter, modules, path, preload, forked: true };
        Self {
            name: name.into(),
            cancel_grace: Some(Duration::from_secs(2)),
            kind,
            env: environment::threads(1).collect(),
            inherit: Vec::new(),
            cwd: None,
            limits: Limits::default(),
            devices: None,
            capacity: None,
            host_tools: HostTools::default(),
        }
    }

    /// A program that speaks the frames itself, such as one built on `snakehouse_wire::worker::serve`.
    ///
    /// `path` is absolute. A cancelled call is left to finish, unless
    /// [`cancel_grace`](Self::cancel_grace) says otherwise.
    pub fn program<A: Into<String>>(
        name: impl Into<String>,
        path: impl Into<PathBuf>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        let args = args.into_iter().map(Into::into).collect();
        Self {
            name: name.into(),
            cancel_grace: None,
            kind: Kind::Program { path: path.into(), args },
            env: Variables::default(),
            inherit: Vec::new(),
            cwd: None,
            limits: Limits::default(),
            devices: None,
            capacity: None,
            host_tools: HostTools::default(),
        }
    }

    /// Workers that come by themselves, from other hosts: a place of the pool is filled by whoever is
    /// [offered](Attachments::attach) next.
    ///
    /// What starts a worker (modules, environment, limits, devices) is said where it is started, by
    /// the spec of its [`Hosted`](crate::Hosted), and does nothing here. Of a worker whose connection is
    /// lost nobody knows what it had started: its calls fail with
    /// [`CallError::OutcomeUnknown`](crate::CallError::OutcomeUnknown). A cancelled call that is not back
    /// after 2 s costs the worker its place.
    ///
    /// The pool is there at once, and calls wait for whoever comes.
    pub fn attached(name: impl Into<String>, attachments: &Attachments) -> Self {
        Self {
            name: name.into(),
            cancel_grace: Some(Duration::from_secs(2)),
            kind: Kind::Attached(attachments.clone()),
            env: Variables::default(),
            inherit: Vec::new(),
            cwd: None,
            limits: Limits::default(),
            devices: None,
            capacity: None,
            host_tools: HostTools::default(),
        }
    }

    /// A module whose `@tool` functions the worker serves: a dotted name, or the path of a `.py`
    /// file. May be repeated. Does nothing for programs.
    #[must_use]
    pub fn module(mut self, module: impl Into<String>) -> Self {
        if let Kind::Python { modules, .. } = &mut self.kind {
            modules.push(module.into());
        }
        self
    }

    /// Modules that are imported once, by a zygote that then forks the workers: they start in
    /// milliseconds and share the memory of what was imported. Dotted names or paths, as for
    /// [`module`](Self::module); may be repeated. Does nothing for programs.
    ///
    /// The default is an empty list: then only the worker's own modules are shared. One zygote
    /// serves all pools of a reaper with the same interpreter, list, environment and directory.
    /// A worker starts with what the modules held when they were imported: change one, and workers
    /// see it after the zygote's end. The hash seed is the zygote's; `random`, `numpy.random` and
    /// `torch` are seeded anew in each worker, generators that a module made are not.
    ///
    /// Where a fork would not be safe, because an import started a thread or a process, opened a
    /// device, a socket or a file for writing, each worker is started by itself and imports the
    /// list itself; [`WorkerInfo::birth`](crate::WorkerInfo::birth) and
    /// [`Reaper::zygotes`](crate::Reaper::zygotes) name the import. A library that holds a GPU is
    /// such a case; better say [`spawn`](Self::spawn) then.
    #[must_use]
    pub fn preload<M: Into<String>>(mut self, names: impl IntoIterator<Item = M>) -> Self {
        if let Kind::Python { preload, .. } = &mut self.kind {
            preload.extend(names.into_iter().map(Into::into));
        }
        self
    }

    /// Starts each worker by itself, without a zygote: an interpreter and all imports per worker.
    /// The choice for libraries that hold a GPU. Does nothing for programs.
    #[must_use]
    pub fn spawn(mut self) -> Self {
        if let Kind::Python { forked, .. } = &mut self.kind {
            *forked = false;
        }
        self
    }

    /// A directory that modules are imported from. May be repeated. Does nothing for programs.
    #[must_use]
    pub fn python_path(mut self, directory: impl Into<PathBuf>) -> Self {
        if let Kind::Python { path, .. } = &mut self.kind {
            path.push(directory.into());
        }
        self
    }

    /// How many calls each worker runs at once, and how. The default is one. At least 1, and no worker
    /// gets more than 4,096; what its hello says counts in the end. Programs are asked in the same way, through
    /// `SNAKEHOUSE_CAPACITY` and `SNAKEHOUSE_MODE` in their environment.
    #[must_use]
    pub fn capacity(mut self, calls: usize, mode: Mode) -> Self {
        self.capacity = Some((calls.max(1), mode));
        self
    }

    /// A Rust closure that the worker's tools can call, in Python as `snakehouse.host.NAME(...)`. May
    /// be repeated. Workers are told of it when they start, and of nothing more afterwards. Programs
    /// are told as well, if their hello claims `callbacks`.
    #[must_use]
    pub fn host_tool(mut self, tool: HostTool) -> Self {
        self.host_tools.push(tool);
        self
    }

    /// A variable of the worker's environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// A variable of the host that the worker sees as well, if it is set; `AWS_*` is every one that
    /// begins so. May be repeated. Read anew for each incarnation.
    #[must_use]
    pub fn inherit_env(mut self, name: impl Into<String>) -> Self {
        self.inherit.push(name.into());
        self
    }

    /// Threads of arithmetic that a worker's libraries may use: sets `OMP_NUM_THREADS`,
    /// `OPENBLAS_NUM_THREADS`, `MKL_NUM_THREADS` and their kin, in the worker's environment only.
    /// The default is 1 for Python workers, and whatever the libraries think for programs.
    #[must_use]
    pub fn threads(mut self, count: usize) -> Self {
        self.env.extend(environment::threads(count));
        self
    }

    /// The worker's working directory. The default is the host's.
    #[must_use]
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Self {
        self.cwd = Some(directory.into());
        self
    }

    /// How long a cancelled call may go on before its worker is killed; `None` is for ever.
    #[must_use]
    pub fn cancel_grace(mut self, grace: Option<Duration>) -> Self {
        self.cancel_grace = grace;
        self
    }

    /// Devices, one for each worker, spread evenly. `variable` tells a worker which one is its own:
    /// `CUDA_VISIBLE_DEVICES`, say. One that fails gets no worker for 60 s and longer each time it
    /// fails again: one whose worker ended with exit status 71 (`raise snakehouse.DeviceFault` in
    /// Python), or with SIGSEGV, SIGABRT and the like three times in a row. Its workers go to the
    /// others; where all have failed they wait for the first that comes back.
    #[must_use]
    pub fn devices<N: Into<String>>(
        mut self,
        variable: impl Into<String>,
        names: impl IntoIterator<Item = N>,
    ) -> Self {
        let names: Vec<_> = names.into_iter().map(Into::into).collect();
        let variable = variable.into();
        self.devices = (!names.is_empty()).then_some(Devices { variable, names });
        self
    }

    /// What each worker may use. The default is no limit.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its workers take shared buffers and lend large results: those of Python do.
    pub(crate) fn has_buffers(&self) -> bool {
        matches!(self.kind, Kind::Python { .. })
    }

    /// Where its workers come from, if they are not started here.
    pub(crate) fn attachments(&self) -> Option<&Attachments> {
        match &self.kind {
            Kind::Attached(attachments) => Some(attachments),
            _ => None,
        }
    }

    /// The command for one incarnation that serves elsewhere: without what cannot travel.
    pub(crate) fn hosted_command(&self, program: &Path) -> Result<Command, String> {
        let mut command = self.command(program)?;
        command.env.remove(BUFFER_FD_VARIABLE);
        Ok(command)
    }

    /// The command for one incarnation. `program` is the Python worker's.
    pub(crate) fn command(&self, program: &Path) -> Result<Command, String> {
        let text = |path: &Path| {
            path.to_str()
                .map(str::to_owned)
                .ok_or_else(|| format!("{} is not UTF-8", path.display()))
        };
        let mut env: Variables = environment::inherited().collect();
        env.extend(environment::chosen(&self.inherit));
        env.extend(environment::MALLOC.map(|(k, v)| (k.to_owned(), v.to_owned())));
        let (argv, zygote) = match &self.kind {
            Kind::Attached(_) => return Err("such a worker starts itself".to_owned()),
            Kind::Program { path, args } => {
                let mut argv = vec![text(path)?];
                argv.extend(args.iter().cloned());
                (argv, None)
            }
            Kind::Python { interpreter, modules, path, preload, forked } => {
                if !path.is_empty() {
                    let search: Result<Vec<_>, _> = path.iter().map(|path| text(path)).collect();
                    env.insert("PYTHONPATH".to_owned(), search?.join(":"));
                }
                // -P: what lies in the working directory is not in front of everything.
                let mut argv = vec![text(interpreter.path())?, "-P".to_owned(), text(program)?];
                let zygote = forked.then(|| Zygote {
                    argv: argv.iter().cloned().chain(["--zygote".to_owned()]).collect(),
                    preload: preload.clone(),
                    args: modules.clone(),
                });
                argv.extend(preload.iter().map(|name| format!("--preload={name}")));
                argv.extend(modules.iter().cloned());
                (argv, zygote)
            }
        };
        env.extend(self.env.iter().map(|(k, v)| (k.clone(), v.clone())));
        if let Some((calls, mode)) = self.capacity {
            env.insert(CAPACITY_VARIABLE.to_owned(), calls.to_string());
            env.insert(MODE_VARIABLE.to_owned(), mode.name().to_owned());
        }
        env.insert(FD_VARIABLE.to_owned(), CONTROL_FD.to_owned());
        env.insert(PAGE_FD_VARIABLE.to_owned(), PAGE_FD.to_owned());
        if self.has_buffers() {
            env.insert(BUFFER_FD_VARIABLE.to_owned(), BUFFER_FD.to_owned());
        }
        Ok(Command { argv, env, cwd: self.cwd.clone(), limits: self.limits.clone(), zygote })
    }
}
