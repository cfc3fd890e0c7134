# Runs Ray's autoscaler, again whenever it ends. It ends by itself after five errors, for example of the API server, and
# relies on a restart of its container, which autoscaler v2's restartPolicy Never denies. The time of ALIVE_FILE says
# that this container runs; the head's liveness probe reads it.
trap 'kill "$autoscaler" 2>/dev/null; exit 0' TERM INT
while true; do
  $KUBERAY_GEN_AUTOSCALER_START_CMD &
  autoscaler=$!
  while kill -0 "$autoscaler" 2>/dev/null; do
    touch "$ALIVE_FILE"
    sleep 5 &
    wait $!
  done
  wait "$autoscaler"
  echo "The autoscaler ended with status $?. It is started again."
done
