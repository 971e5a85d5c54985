//! The command line as typed: what clap reads. Commands turn it into what they need.

mod partition;
#[cfg(test)]
mod reference;
mod schedule;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::input::parse_duration;

pub(crate) use partition::{OrderArgs, PartitionCommand};
pub(crate) use schedule::{ScheduleArgs, ScheduleCommand};

/// Durable workflows on NATS JetStream and Redis.
#[derive(Debug, Parser)]
#[command(
    name = "millrace",
    version,
    about,
    max_term_width = 100,
    disable_help_subcommand = true,
    after_help = crate::failure::CODES
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connect: Connect,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which coordinator.
#[derive(Clone, Debug, Args)]
pub(crate) struct Connect {
    /// The coordinator to talk to.
    #[arg(
        long,
        global = true,
        env = "MILLRACE_URL",
        default_value = "http://127.0.0.1:7400"
    )]
    pub(crate) url: String,
    /// Bearer token of the API.
    #[arg(long, global = true, env = "MILLRACE_TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the whole stack in this terminal.
    Dev(DevArgs),
    /// Apply a definition, start it, follow it and print its output.
    Run(RunArgs),
    /// Check definitions without a coordinator.
    Validate(ValidateArgs),
    /// Store definitions.
    Apply(FilesArgs),
    /// Start an instance.
    Start(StartArgs),
    /// Show what runs, how far it can be trusted, and what is wrong.
    Status(ReadArgs),
    /// Work with instances.
    #[command(subcommand, visible_alias = "instances")]
    Instance(InstanceCommand),
    /// Look at definitions.
    #[command(subcommand, visible_alias = "definitions")]
    Definition(DefinitionCommand),
    /// Look at workers; without a command: be the stock worker.
    #[command(visible_alias = "workers")]
    Worker(WorkerArgs),
    /// Look at queues.
    #[command(subcommand, visible_alias = "queues")]
    Queue(QueueCommand),
    /// Look at schedules; pause, resume, trigger and backfill them.
    #[command(subcommand, visible_alias = "schedules")]
    Schedule(ScheduleCommand),
    /// Look at partitions; bring a halted one back.
    #[command(subcommand, visible_alias = "partitions")]
    Partition(PartitionCommand),
    /// Make the state of a halted partition anew from its log.
    Rebuild(OrderArgs),
    /// Work with events.
    #[command(subcommand, visible_alias = "events")]
    Event(EventCommand),
    /// Be a coordinator.
    Coordinator,
    /// Measure a running stack.
    Bench(BenchArgs),
    /// Show on a stack of its own that failing steps and a killed worker do no harm.
    Demo(DemoArgs),
    /// Print a completion script.
    Completion {
        /// For this shell.
        shell: clap_complete::Shell,
    },
    /// Not supported yet.
    #[command(hide = true)]
    Agent(Later),
    /// Not supported yet.
    #[command(hide = true)]
    Dlq(Later),
    /// Runs a program that dies with its parent.
    #[command(name = "__exec", hide = true)]
    Exec(ExecArgs),
}

impl Command {
    /// The form that was asked for with `-o`: errors of the API come in it too.
    pub(crate) fn format(&self) -> Format {
        let read = match self {
            Self::Start(args) => Some(&args.read),
            Self::Status(read) => Some(read),
            Self::Bench(args) => Some(&args.read),
            Self::Instance(command) => command.read(),
            Self::Definition(DefinitionCommand::List { read, .. } | DefinitionCommand::Get { read, .. }) => {
                Some(read)
            }
            Self::Worker(args) => args.command.as_ref().map(WorkerCommand::read),
            Self::Queue(command) => Some(command.read()),
            Self::Schedule(command) => Some(command.read()),
            Self::Event(EventCommand::Send { read, .. }) => Some(read),
            Self::Partition(command) => Some(command.read()),
            Self::Rebuild(args) => Some(&args.read),
            // All the rest by name, so that a new command with an `-o` is not forgotten here.
            Self::Dev(_)
            | Self::Run(_)
            | Self::Validate(_)
            | Self::Apply(_)
            | Self::Coordinator
            | Self::Demo(_)
            | Self::Completion { .. }
            | Self::Agent(_)
            | Self::Dlq(_)
            | Self::Exec(_) => None,
        };
        read.map_or(Format::Table, |read| read.output)
    }
}

/// Anything: of a command that comes later.
#[derive(Debug, Args)]
pub(crate) struct Later {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    pub(crate) rest: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// Process id of the parent.
    #[arg(long)]
    pub(crate) parent: i32,
    /// Program and arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub(crate) command: Vec<std::ffi::OsString>,
}

/// Form of what is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// As the API answers.
    Json,
    /// The same, easier to read.
    Yaml,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct ReadArgs {
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

#[derive(Debug, Args)]
pub(crate) struct FilesArgs {
    /// Definitions in YAML or JSON; `-` reads standard input.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// List as well what other runtimes of the language would ignore or not know.
    #[arg(long)]
    pub(crate) portable: bool,
    #[command(flatten)]
    pub(crate) files: FilesArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Where data and logs are kept.
    #[arg(long, default_value = ".millrace", value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Keep nothing: data goes to a temporary directory that is removed at the end.
    #[arg(long, conflicts_with = "dir")]
    pub(crate) ephemeral: bool,
    /// Port of the API.
    #[arg(long, default_value_t = 7400)]
    pub(crate) port: u16,
    /// Stock workers to start.
    #[arg(long, default_value_t = 1)]
    pub(crate) workers: u16,
    /// Apply the definitions of this directory, and again whenever one is saved.
    #[arg(long, value_name = "DIR")]
    pub(crate) workflows: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The definition.
    pub(crate) file: PathBuf,
    /// Input as JSON, `@FILE`, or `-` for standard input.
    #[arg(long, default_value = "null", value_name = "JSON")]
    pub(crate) input: String,
    /// Use a stack of its own that is gone afterwards.
    #[arg(long)]
    pub(crate) local: bool,
    /// Give up after this long, whatever is being done then; a started instance goes on.
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// NAME or NAME@VERSION; the newest version unless one is given.
    #[arg(value_name = "NAME[@VERSION]")]
    pub(crate) definition: String,
    /// Namespace of the definition.
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    /// Id of the instance: starting the same id again gives the same instance.
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// Input as JSON, `@FILE`, or `-` for standard input.
    #[arg(long, default_value = "null", value_name = "JSON")]
    pub(crate) input: String,
    /// Label KEY=VALUE; may be repeated.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<String>,
    /// Wait for the end, follow it on stderr, and print the output.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Give up after this long; a started instance goes on.
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", requires = "wait")]
    pub(crate) timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
}

/// One instance.
#[derive(Clone, Debug, Args)]
pub(crate) struct InstanceRef {
    /// Its id.
    pub(crate) id: String,
    /// Its namespace; not needed where the id is in only one.
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ControlArgs {
    #[command(flatten)]
    pub(crate) instance: InstanceRef,
    /// Why; shown in the history.
    #[arg(long)]
    pub(crate) reason: Option<String>,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum InstanceCommand {
    /// Instances, newest first.
    #[command(visible_alias = "ls")]
    List {
        /// Only in this namespace.
        #[arg(short, long)]
        namespace: Option<String>,
        /// Only in these phases; comma separated or repeated.
        #[arg(long, value_delimiter = ',')]
        status: Vec<String>,
        /// Only of [NAMESPACE/]NAME[@VERSION].
        #[arg(long)]
        definition: Option<String>,
        /// Only with the label KEY or KEY=VALUE; repeated: with all of them.
        #[arg(long = "label")]
        labels: Vec<String>,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// One instance.
    Get {
        #[command(flatten)]
        instance: InstanceRef,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// What happened to an instance.
    History {
        #[command(flatten)]
        instance: InstanceRef,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Follow an instance until it ends; the output goes to stdout.
    Watch {
        #[command(flatten)]
        instance: InstanceRef,
        /// Give up after this long.
        #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
        timeout: Option<Duration>,
    },
    /// End an instance as cancelled.
    Cancel(ControlArgs),
    /// Begin no new step until resumed.
    Suspend(ControlArgs),
    /// Go on after a suspension.
    Resume(ControlArgs),
    /// Start again from the failed task of a faulted instance.
    Retry(ControlArgs),
    /// Let an instance go on that was set aside because the engine panicked.
    #[command(group(clap::ArgGroup::new("record").required(true).args(["retry", "skip"])))]
    Unquarantine {
        #[command(flatten)]
        control: ControlArgs,
        /// Apply the record on which the engine panicked now: after an update that mends it.
        #[arg(long)]
        retry: bool,
        /// Go on without that record.
        #[arg(long)]
        skip: bool,
    },
}

impl InstanceCommand {
    const fn read(&self) -> Option<&ReadArgs> {
        match self {
            Self::List { read, .. } | Self::Get { read, .. } | Self::History { read, .. } => Some(read),
            Self::Watch { .. } => None,
            Self::Cancel(args)
            | Self::Suspend(args)
            | Self::Resume(args)
            | Self::Retry(args)
            | Self::Unquarantine { control: args, .. } => Some(&args.read),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum DefinitionCommand {
    /// All definitions.
    #[command(visible_alias = "ls")]
    List {
        /// Only in this namespace.
        #[arg(short, long)]
        namespace: Option<String>,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// The text of one definition.
    Get {
        /// NAME or NAME@VERSION; the newest version unless one is given.
        #[arg(value_name = "NAME[@VERSION]")]
        definition: String,
        /// Its namespace.
        #[arg(short, long, default_value = "default")]
        namespace: String,
        #[command(flatten)]
        read: ReadArgs,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct WorkerArgs {
    #[command(subcommand)]
    pub(crate) command: Option<WorkerCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// The fleet.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        read: ReadArgs,
    },
    /// One worker.
    Get {
        /// Its id.
        id: String,
        #[command(flatten)]
        read: ReadArgs,
    },
    /// Ask a worker to take nothing new, finish what it runs and exit.
    Drain {
        /// Its id.
        id: String,
        #[command(flatten)]
        read: ReadArgs,
    },
}

impl WorkerCommand {
    const fn read(&self) -> &ReadArgs {
        match self {
            Self::List { read } | Self::Get { read, .. } | Self::Drain { read, .. } => read,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum EventCommand {
    /// Publish events: to instances that listen, and to every other client of the stream.
    Send {
        /// A CloudEvent in JSON, or an array of them; `-` reads standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        read: ReadArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// All queues.
    #[command(visible_alias = "ls")]
    List {
        #[command(flatten)]
        read: ReadArgs,
    },
    /// One queue.
    Get(QueueArgs),
    /// Deliver no step until resumed; running steps go on.
    Pause(QueueArgs),
    /// Deliver steps again.
    Resume(QueueArgs),
}

impl QueueCommand {
    const fn read(&self) -> &ReadArgs {
        match self {
            Self::List { read } => read,
            Self::Get(args) | Self::Pause(args) | Self::Resume(args) => &args.read,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct QueueArgs {
    /// Its name.
    pub(crate) queue: String,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Many instances at a time, each with steps one after the other.
    Sequence,
    /// Many instances at a time, each with steps side by side.
    Fanout,
    /// One instance at a time.
    Latency,
}

impl Scenario {
    /// As typed.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sequence => "sequence",
            Self::Fanout => "fanout",
            Self::Latency => "latency",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// What is measured.
    #[arg(long, value_enum, default_value = "sequence")]
    pub(crate) scenario: Scenario,
    /// Steps of one instance.
    #[arg(long, default_value_t = 10)]
    pub(crate) steps: u32,
    /// Instances in all; 200 for `latency`, else 2000, unless given.
    #[arg(long)]
    pub(crate) instances: Option<u32>,
    /// Instances at a time; 1 for `latency`, else 64, unless given.
    #[arg(long)]
    pub(crate) concurrency: Option<u32>,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// The definition that is run; without it the program's own copy of examples/order-flaky.yaml.
    #[arg(long)]
    pub(crate) file: Option<PathBuf>,
}
