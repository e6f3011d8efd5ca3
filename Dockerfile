# One image for masters and volumes:
#
#   docker image build -t minikeyvalue:1.0 .
#   docker container run -p 3000:3000 -p 3001:3001 -p 3002:3002 -p 3003:3003 -p 3004:3004 -p 3005:3005 --detach minikeyvalue:1.0
#
# runs a whole cluster, with five volumes; `… minikeyvalue:1.0 volume DIR` is one volume, and `… minikeyvalue:1.0 FLAGS COMMAND` is mkv.

FROM rust:1-slim-bookworm AS build
# For a build that is only to be tried, and sooner there: --build-arg CARGO_PROFILE_RELEASE_LTO=off and the like.
ARG CARGO_PROFILE_RELEASE_LTO
ARG CARGO_PROFILE_RELEASE_OPT_LEVEL
ARG CARGO_PROFILE_RELEASE_CODEGEN_UNITS
WORKDIR /src
# For jemalloc, which is built from its C sources.
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
# What others have written, in a layer of its own: it is built again only when Cargo.lock changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src && touch src/lib.rs && echo 'fn main() {}' >src/main.rs && cargo build --release --locked --bin mkv
COPY src src
COPY docs/openapi.json docs/
# Cargo goes by times, and those of the checkout may be older than the empty program above.
RUN touch src/lib.rs src/main.rs && cargo build --release --locked --bin mkv

FROM debian:bookworm-slim
# e2fsprogs has chattr, for DURABLE=1.
RUN apt-get update \
 && apt-get install -y --no-install-recommends nginx-light e2fsprogs \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/* /usr/share/doc /usr/share/man \
 && useradd --system --uid 990 --home-dir /data mkv \
 && mkdir /data /index && chown mkv:mkv /data /index
COPY volume deploy/entrypoint /usr/local/bin/
COPY deploy/nginx-volume.conf.template /usr/local/share/mkv/
COPY --from=build /src/target/release/mkv /usr/local/bin/
USER mkv
WORKDIR /data
EXPOSE 3000-3005
HEALTHCHECK --interval=3s --timeout=3s --start-period=10s CMD ["entrypoint", "health"]
ENTRYPOINT ["entrypoint"]
CMD ["cluster"]
