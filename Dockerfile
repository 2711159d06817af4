# The command in a small image, built and tried: docs/quick-start.md, "In a container".
#
# It was written without a container engine at hand, and read instead of run; the workflow builds it and runs what it makes.
#
#   docker build --tag etrace .                            the first command of the README is run, at a length that takes seconds
#   docker build --target test .                           the second one: all tests
#   docker run --rm --user "$(id -u)" --volume "$PWD:/work" etrace train dms-small --out first

FROM rust:1.95-bookworm AS build
# pip fetches the plugin.
RUN apt-get update && apt-get install --yes --no-install-recommends python3-pip && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home etrace
USER etrace
# A folder that WORKDIR makes may belong to root.
RUN mkdir /home/etrace/source
WORKDIR /home/etrace/source
COPY --chown=etrace:etrace . .
RUN cargo build --release --locked
RUN cargo run --release --locked -- memspeed --length 20 --out target/memspeed
RUN cp "$(target/release/etrace plugin path cpu)" /home/etrace/xla_cpu_pjrt.so

FROM build AS test
RUN cargo test --release --locked

FROM debian:bookworm-slim
# The plugin is C++.
RUN apt-get update && apt-get install --yes --no-install-recommends libstdc++6 && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home etrace && mkdir /work && chown etrace:etrace /work
COPY --from=build /home/etrace/source/target/release/etrace /usr/local/bin/etrace
COPY --from=build /home/etrace/xla_cpu_pjrt.so /usr/local/lib/xla_cpu_pjrt.so
# Named here, so that the image works for any user and without a network.
ENV ETRACE_CPU_PLUGIN=/usr/local/lib/xla_cpu_pjrt.so
USER etrace
WORKDIR /work
ENTRYPOINT ["etrace"]
CMD ["--help"]
