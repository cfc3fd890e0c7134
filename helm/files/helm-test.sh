# `helm test` asks until the service answers or the time is over, then checks the answer and a refusal.
#
# It asks again because the address of a new pod is not in the network policies at once, and because replicas may still
# load the model. Variables: URL, KEY_OPTION, PICTURE, QUESTION, EXPECTED, TIME_LIMIT_S, PAUSE_S.
ask() { timeout 120 glm-serve ask $KEY_OPTION --url "$URL" "$1" "$QUESTION" 2>&1; }

last=""
until answer=$(ask "$PICTURE"); do
  answer=${answer:-"nothing within 120 s"}
  if [[ $SECONDS -ge $TIME_LIMIT_S ]]; then
    echo "No answer within $TIME_LIMIT_S s. The last attempt ended with: $answer"
    exit 1
  fi
  [[ $answer == "$last" ]] || echo "No answer after $SECONDS s, asking again: $answer"
  last=$answer
  sleep "$PAUSE_S"
done
echo "The answer after $SECONDS s: $answer"
if ! grep -Eq -- "$EXPECTED" <<<"$answer"; then
  echo "The answer does not match $EXPECTED."
  exit 1
fi
if refusal=$(ask /etc/hostname); then
  echo "A text file was accepted as a picture: $refusal"
  exit 1
fi
echo "A text file is refused, as expected: $refusal"
